"use strict";
document.documentElement.classList.add("js");

/* Photos: two layers of a stage, parted by a line that pointer and keyboard move. */
const left = document.getElementById("left");
const right = document.getElementById("right");

function showPair() {
  for (const stage of document.querySelectorAll(".stage")) {
    for (const layer of stage.querySelectorAll(".layer")) {
      layer.classList.toggle("left", layer.dataset.shows === left.value);
      layer.classList.toggle("right", layer.dataset.shows === right.value);
    }
    const names = [left, right].map((choice) => choice.selectedOptions[0].textContent);
    stage.querySelector(".tag.left").textContent = names[0];
    stage.querySelector(".tag.right").textContent = names[1];
    stage.querySelector("input").setAttribute(
      "aria-valuetext", `${names[0]} left of the line, ${names[1]} right of it`);
  }
}

for (const stage of document.querySelectorAll(".stage")) {
  const slider = stage.querySelector("input");
  slider.addEventListener("input", () => stage.style.setProperty("--cut", `${slider.value}%`));
}

for (const button of document.querySelectorAll(".shot button")) {
  button.addEventListener("click", () => {
    const zoomed = button.closest(".shot").querySelector(".stage").classList.toggle("zoomed");
    button.setAttribute("aria-pressed", String(zoomed));
  });
}

if (left && right) {
  left.addEventListener("change", showPair);
  right.addEventListener("change", showPair);
  showPair();
}

/* All photos: rows of the data block, sorted by a click on a heading. */
const FIRST_ROWS = 25;
const body = document.querySelector("#all tbody");
const more = document.getElementById("more");

function fill(data, order, count) {
  const rows = order.slice(0, count).map((index) => {
    const row = document.createElement("tr");
    data.rows[index].forEach((value, column) => {
      const cell = document.createElement("td");
      cell.textContent = write(value, data.columns[column]);
      if (column === 0) cell.className = "name";
      if (data.columns[column].signed && value) {
        const better = value > 0 === data.columns[column].higher;
        cell.className = `change ${better ? "better" : "worse"}`;
      }
      row.append(cell);
    });
    return row;
  });
  body.replaceChildren(...rows);
  more.hidden = count >= order.length;
}

function write(value, column) {
  if (value === null) return "–";
  if (typeof value === "string") return value;
  const number = value.toFixed(column.decimals).replace("-", "−");
  return column.signed && value > 0 ? `+${number}` : number;
}

function compareValues(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}

function startTable(data) {
  const headings = [...document.querySelectorAll("#all thead th")];
  let order = data.rows.map((_, index) => index);
  let count = FIRST_ROWS;
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") !== "descending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const sign = descending ? -1 : 1;
      order.sort((a, b) => {
        const [x, y] = [data.rows[a][column], data.rows[b][column]];
        const missing = x === null || y === null;
        return (missing ? 1 : sign) * compareValues(x, y);
      });
      fill(data, order, count);
    });
  });
  more.addEventListener("click", () => {
    count = order.length;
    fill(data, order, count);
  });
  fill(data, order, count);
}

if (body) startTable(JSON.parse(document.getElementById("data").textContent));
