"""The report: what it says, and that nothing which others wrote becomes part of the page."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import data

from trainer.judge.perceptual import Perceptual
from trainer.judge.pictures import CloseUp, Picture, open_pictures
from trainer.judge.regions import RegionScore
from trainer.judge.scores import PhotoScore
from trainer.judge.shown import MOST_SHOWN
from trainer.photos.sources import open_photos
from trainer.report.escape import Markup, element, json_text, markdown
from trainer.report.figures import labels, place_name, private
from trainer.report.page_photos import photo_rows
from trainer.report.pages import page, write_report
from trainer.report.plots import Line, line_chart, nice_step, smooth, thin
from trainer.report.report_data import build_report
from trainer.report.table import print_table
from trainer.report.verdict import verdict

PAYLOAD = "</script><img src=x onerror=1>"
NAN = float("nan")
LPIPS = Perceptual("lpips-squeeze", True, 16, lambda x, y: (x - y).abs().mean((1, 2, 3)))
FALLBACK = Perceptual("encoder-features", False, 2, LPIPS.distance)
OUR_TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer",
    "div", "p", "h1", "h2", "h3", "b", "i", "strong", "span", "ul", "li", "a", "figure",
    "figcaption", "img", "input", "button", "label", "select", "option", "table", "thead", "tbody",
    "tr", "th", "td", "details", "summary", "dl", "dt", "dd", "code", "noscript", "script", "svg",
    "path", "line", "rect", "circle", "text",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would see: tags, attributes, text by tag, scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._inside.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        if self._inside and self._inside[-1][0] == "script":
            self.scripts.append((self._inside[-1][1], text))
        else:
            self.words.append(text)

    def values(self, attribute: str) -> list[str | None]:
        """Return all values of an attribute."""
        return [value for _, name, value in self.attributes if name == attribute]


def scores(shift: float, names: tuple[str, ...] = ("a.png", "b.png", "c.png")) -> list[PhotoScore]:
    """Scores of photos that differ, `shift` dB above 20 and more."""
    return [
        PhotoScore(
            id=f"id{i}",
            name=name,
            width=64,
            height=48,
            psnr=20.0 + i + shift,
            ssim=0.5,
            lpips=0.2 - shift / 100,
            channel_error=(0.01, 0.0, -0.01),
            sharpness=0.5,
            faces=0,
        )  # fmt: skip
        for i, name in enumerate(names)
    ]


def report_of(first: list[PhotoScore], second: list[PhotoScore], **sets: Any) -> dict[str, Any]:
    """A report on validation photos alone."""
    models = {"base": {"val": first}, "tuned": {"val": second}}
    return build_report(models, LPIPS, eval_resolution=512, **sets)


def pictures_of(found: list[PhotoScore]) -> list[Picture]:
    """Pictures of plain colour for some scores."""
    grey = np.full((48, 64, 3), 128, np.uint8)
    return [
        Picture("val", s.id, s.name, grey, ((8, 8, 16, 16),), {"base": grey, "tuned": grey})
        for s in found
    ]


HISTORY = [
    {"step": step, "images": step * 4, "loss": 1 / step, "rec": 0.5 / step, "lr": 1e-4 * step}
    for step in range(10, 200, 10)
]  # fmt: skip


# Data


def test_report_json_has_the_shape_that_others_rely_on(tmp_path: Path) -> None:
    face = {"faces": RegionScore(1, 19.0, 0.4, lpips=0.3)}
    face["faces_small"] = face["faces"]
    first = [PhotoScore("a", "a.png", psnr=20.0, ssim=0.5, lpips=0.2, faces=1, regions=face)]
    general = scores(0)
    models = {"base": {"val": first, "general": general}, "tuned": {"val": first, "general": []}}
    write_report(tmp_path, build_report(models, LPIPS, eval_resolution=512))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["lpips_net"] == "squeeze"
    assert list(report["models"]) == ["base", "tuned"]
    base = report["models"]["base"]
    assert base["val"]["faces_small"] == {
        "n": 1, "faces": 1, "psnr": 19.0, "ssim": 0.4, "lpips": 0.3,
    }  # fmt: skip
    assert set(base["val"]) == {"all", "faces", "faces_small"}
    assert {"n", "psnr", "ssim", "lpips"} <= set(base["general"]["all"])
    one = report["photos"]["val"][0]["models"]["base"]
    assert one.pop("regions")["faces_small"] == {"psnr": 19.0, "ssim": 0.4, "lpips": 0.3}
    assert one == {"psnr": 20.0, "ssim": 0.5, "lpips": 0.2}


def test_without_lpips_its_keys_are_null_and_the_stand_in_has_its_own() -> None:
    found = [PhotoScore("a", "a", psnr=20.0, ssim=0.5, encoder_distance=0.3)]
    report = build_report({"base": {"val": found}}, FALLBACK, eval_resolution=512)
    whole = report["models"]["base"]["val"]["all"]
    assert report["lpips_net"] is None and whole["lpips"] is None
    assert whole["encoder_distance"] == 0.3
    assert "Encoder distance" in print_table(report)
    assert "It is not LPIPS" in page(report)


def test_nan_becomes_null_and_the_verdict_says_broken(tmp_path: Path) -> None:
    report = report_of(scores(0), [*scores(1)[:2], PhotoScore("id2", "c.png", psnr=NAN)])
    write_report(tmp_path, report, config={"learning_rate": NAN})
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert written["models"]["tuned"]["val"]["all"]["psnr"] is None
    assert written["config"]["learning_rate"] is None
    assert "NaN" not in text
    assert "Broken" in verdict(report).headline


def test_photos_left_out_are_counted_by_reason() -> None:
    first = [*scores(0), PhotoScore("x", "x", skipped="damaged")]
    facts = {"data": {"train": {"photos": 9, "skipped": {"too small": 2}}}}
    report = report_of(first, scores(1), facts=facts)
    assert report["skipped"] == {"val": {"damaged": 1}}
    words = " ".join(Page(page(report)).words)
    assert "3 photos left out" in words and "2 too small" in words and "1 damaged" in words


def test_what_was_trained_and_written_is_told() -> None:
    facts = {
        "run": {"steps": 1500, "images": 12000, "loss": ["rec: mse, mean over C, H, W"]},
        "export": {
            "tensors": 248, "parameters": 83_653_863, "decode_difference": 2e-6,
            "fp16": {"finite": False, "largest": 70000.0, "where": "up_blocks.2"},
        },
    }  # fmt: skip
    words = " ".join(Page(page(report_of(scores(0), scores(1), facts=facts))).words)
    for said in ("1,500", "rec: mse", "248 tensors", "2.0e-06", "does not fit", "70,000 of 65,504"):
        assert said in words
    assert "What was trained" not in page(report_of(scores(0), scores(1)))


# Verdict


def shifted(psnr: float, lpips: float, n: int = 12) -> list[PhotoScore]:
    return [PhotoScore(str(i), str(i), psnr=20.0 + psnr, lpips=0.2 + lpips) for i in range(n)]


@pytest.mark.parametrize(
    ("psnr", "lpips", "tone"),
    [
        (1.0, -0.02, "better"),
        (1.0, 0.0, "better"),
        (1.0, 0.02, "mixed"),
        (-1.0, -0.02, "mixed"),
        (-1.0, 0.02, "worse"),
        (0.005, 0.0001, "same"),
    ],
)
def test_the_verdict_weighs_pixels_and_perception(psnr: float, lpips: float, tone: str) -> None:
    assert verdict(report_of(shifted(0, 0), shifted(psnr, lpips))).tone == tone


def test_the_headline_says_how_much_on_how_many() -> None:
    second = scores(1.104)
    second[2] = scores(-1)[2]
    found = verdict(report_of(scores(0), second))
    assert found.headline == "Better: +0.40 dB on 3 photos, 2 of 3 better"
    assert any("few" in line for line in found.details)


def test_a_loss_elsewhere_is_said_beside_the_gain() -> None:
    base = {"val": shifted(0, 0), "general": shifted(0, 0)}
    tuned = {"val": shifted(1, -0.02), "general": shifted(1, 0.02)}
    found = verdict(build_report({"base": base, "tuned": tuned}, LPIPS, eval_resolution=512))
    assert found.details[-1].startswith("Elsewhere: LPIPS")
    assert found.details[-1].endswith("0.2000 to 0.2200, +10.0 %; lower is better.")


def test_a_gain_within_its_margin_is_no_clear_change() -> None:
    first = [PhotoScore(str(i), "", psnr=20.0) for i in range(10)]
    second = [PhotoScore(str(i), "", psnr=20.0 + (2.0 if i % 2 else -1.8)) for i in range(10)]
    found = verdict(report_of(first, second))
    assert found.tone == "same" and found.headline.startswith("No clear change: +0.10 dB")


def test_intervals_stand_beside_every_change_and_colour_only_what_is_certain() -> None:
    def faced(psnr: float, lpips: float) -> list[PhotoScore]:
        face = RegionScore(1, 15.0 + psnr, None, lpips=0.2 + lpips)
        return [replace(score, regions={"faces": face}) for score in shifted(psnr, lpips)]

    second = faced(1.0, -0.05)
    second[3] = replace(second[3], psnr=20.0 - 40.0)  # the mean loses, the interval holds 0
    report = report_of(faced(0.0, 0.0), second)
    assert report["bootstrap"]["resamples"] == 10_000 and report["bootstrap"]["seed"] == 0
    lines = print_table(report).splitlines()
    whole, distance, face = (lines[i].split("  ") for i in (3, 4, 6))
    assert whole[-1].startswith("-2.42 [-9.25, +1.00] (11 of 12)")
    assert distance[-1] == "-25.0 % [-25.0, -25.0] % better (12 of 12)"
    assert face[-1] == "+1.00 [+1.00, +1.00] better (12 of 12)"
    html = page(report)
    assert "[−25.0, −25.0] %" in html and "12 of 12 better" in html


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.80, 0.95, []),
        (0.80, 1.06, ["Photos are over-sharp: gradient energy 1.06 of the originals', from 0.80."]),
        (0.80, 0.75, ["Photos are smeared more than before: gradient energy 0.75 of the "
                      "originals', from 0.80."]),
        (0.80, 0.795, []),
        (1.20, 1.00, []),
    ],
)  # fmt: skip
def test_what_is_over_sharp_or_smeared_is_called_so(
    before: float, after: float, said: list[str]
) -> None:
    first, last = ([replace(score, sharpness=s) for score in scores(0)] for s in (before, after))
    lines = verdict(report_of(first, last)).details
    assert [line for line in lines if "gradient energy" in line] == said


def test_over_sharp_faces_are_said_apart() -> None:
    face = {"faces": RegionScore(1, 15.0, None, sharpness=1.2)}
    first = [replace(score, regions={"faces": RegionScore(1, 15.0, None, sharpness=0.9)})
             for score in scores(0)]  # fmt: skip
    last = [replace(score, regions=face) for score in scores(0)]
    details = verdict(report_of(first, last)).details
    assert details[-1] == "Faces are over-sharp: gradient energy 1.20 of the originals', from 0.90."


def test_one_model_gets_figures_and_no_verdict() -> None:
    report = build_report({"/a/b.safetensors": {"val": scores(0)}}, None, eval_resolution=512)
    assert verdict(report).headline == "b.safetensors: 21.00 dB PSNR on 3 photos"
    assert "<svg" not in page(report)


def test_of_several_models_the_best_is_named() -> None:
    models = {name: {"val": scores(s)} for name, s in (("a", 0), ("b", 2), ("c", 1))}
    report = build_report(models, LPIPS, eval_resolution=512)
    assert verdict(report).headline == "b: Better: +2.00 dB on 3 photos, 3 of 3 better"
    assert list(Page(page(report)).values("class")).count("tile") == 4


# Terminal


def test_the_table_for_the_terminal() -> None:
    found = print_table(report_of(scores(0), scores(1)))
    assert found.splitlines() == [
        "Validation",
        "                                base   tuned  change",
        "  All: 3 photos",
        "    PSNR (dB)                  21.00   22.00  +1.00 better",
        "    SSIM                      0.5000  0.5000  +0.0000",
        "    LPIPS (squeeze)           0.2000  0.1900  -5.0 % better",
        "    Sharpness                  0.500   0.500  +0.000",
        "    Mean red error, of 255     +2.55   +2.55  +0.00",
        "    Mean green error, of 255   +0.00   +0.00  +0.00",
        "    Mean blue error, of 255    -2.55   -2.55  +0.00",
        "",
        "Better: +1.00 dB on 3 photos, 3 of 3 better",
        "LPIPS (squeeze) 0.2000 to 0.1900, -5.0 %; lower is better.",
        "3 photos are few: this says little about others.",
    ]


def test_the_table_is_ascii_whatever_the_models_are_called() -> None:
    models = {"模型": {"val": scores(0)}, "/x/" + "y" * 90: {"val": scores(1)}}
    print_table(build_report(models, LPIPS, eval_resolution=512)).encode("ascii")


# The page


@pytest.fixture
def hostile() -> tuple[dict[str, Any], str]:
    """A report in which everything that others can name is a payload, and its page."""
    names = (PAYLOAD, f'"{PAYLOAD}', f"'{PAYLOAD}<!--")
    models = {PAYLOAD: {"val": scores(0, names)}, f"/home/x/{PAYLOAD}2": {"val": scores(1, names)}}
    facts = {
        "base": {"name": PAYLOAD, "family": PAYLOAD},
        "run": {"steps": 5, "preset": PAYLOAD},
        "data": {"train": {"photos": 3, "skipped": {PAYLOAD: 2}}},
    }
    report = build_report(models, LPIPS, eval_resolution=512, facts=facts)
    report["config"] = {PAYLOAD: PAYLOAD, "data": PAYLOAD}
    pictures = [
        Picture(p.group, p.id, p.name, p.original, p.faces, dict.fromkeys(models, p.original))
        for p in pictures_of(scores(0, names))
    ]
    return report, page(report, HISTORY, pictures)


def test_no_name_becomes_a_tag_or_a_handler(hostile: tuple[dict[str, Any], str]) -> None:
    seen = Page(hostile[1])
    assert set(seen.tags) <= OUR_TAGS
    assert not [name for _, name, _ in seen.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/jpeg;base64,") for value in seen.values("src"))
    assert seen.tags.count("script") == 2
    assert sum(PAYLOAD in word for word in seen.words) > 5  # they are there, as words


def test_the_data_in_the_page_parses_back_equal(hostile: tuple[dict[str, Any], str]) -> None:
    report, html = hostile
    blocks = [text for attributes, text in Page(html).scripts if attributes.get("id") == "data"]
    assert len(blocks) == 1
    assert json.loads(blocks[0]) == photo_rows(report)
    assert not set("<>&") & set(blocks[0])
    assert PAYLOAD in json.loads(blocks[0])["rows"][0][0]


def test_the_policy_lets_our_script_run_and_nothing_else(
    hostile: tuple[dict[str, Any], str],
) -> None:
    seen = Page(hostile[1])
    policy = next(value for value in seen.values("content") if "default-src" in value)
    script = next(text for attributes, text in seen.scripts if not attributes)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy and "img-src data:;" in policy
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(https?:)?//""", hostile[1])


def test_nothing_tells_whose_disk_the_photos_came_from(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "alice_secret" / "photos"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.9), 3: "E", 4: (2.0, 17.0, 40.2)})
    exif[0x013B] = "alice_secret"
    Image.fromarray(data.chelsea()).save(folder / "cat.jpg", exif=exif)
    assert b"alice_secret" in (folder / "cat.jpg").read_bytes()
    photos = open_photos(str(folder), 8)
    opened = open_pictures(photos, [photos.photos[0].id], 256, 8, "val")
    shown = [Picture("val", p.id, p.name, p.original, (), {"base": p.original}) for p in opened]
    found = [PhotoScore(p.id, p.name, psnr=20.0) for p in shown]
    report = build_report({"base": {"val": found}}, None, eval_resolution=256)
    config = {"data": str(folder), "vae": "C:\\Users\\alice_secret\\vae.safetensors"}
    write_report(tmp_path, report, pictures=shown, config=config)
    for name in ("report.html", "report.json"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "cat.jpg" in text and "vae.safetensors" in text
        assert "alice_secret" not in text and str(tmp_path) not in text
    sources = Page((tmp_path / "report.html").read_text(encoding="utf-8")).values("src")
    assert len(sources) == 2
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert image.size == (384, 256) and not image.getexif()
        assert "exif" not in image.info


def test_the_page_shows_few_photos_and_lists_all() -> None:
    names = tuple(f"photo{i}.png" for i in range(40))
    first, second = scores(0, names), scores(1, names)
    report = report_of(first, second)
    html = page(report, HISTORY, pictures_of(first))
    assert html.count('class="stage"') == MOST_SHOWN
    assert len(photo_rows(report)["rows"]) == 40
    assert "Gained most" in html and "Gained least" in html and "30 of 40 photos" in html


def test_photos_that_lost_are_called_so() -> None:
    names = tuple(f"photo{i}.png" for i in range(12))
    first = scores(0, names)
    second = [*scores(1, names)[:11], scores(-1, names)[11]]
    html = page(report_of(first, second), (), pictures_of(first))
    lost = html.index("Lost most")
    assert lost < html.index("photo11.png, original") < html.index("More photos")


def test_the_worst_ten_of_each_set_stand_together_the_worst_first() -> None:
    names = tuple(f"photo{i:02}.png" for i in range(25))
    losing = [replace(score, psnr=score.psnr - i) for i, score in enumerate(scores(0, names))]
    models = {"base": {"val": scores(0, names), "general": scores(0, names)},
              "tuned": {"val": losing, "general": losing}}  # fmt: skip
    pictures = pictures_of(scores(0, names))[5:]
    pictures += [replace(p, group="general") for p in pictures[-10:]]
    html = page(build_report(models, LPIPS, eval_resolution=512), (), pictures)
    start = html.index("Lost most, Validation")
    shown = re.findall(r'alt="(photo\d+).png, original"', html[start:])
    assert shown[:10] == [f"photo{i}" for i in range(24, 14, -1)]
    assert shown[10:15] == [f"photo{i}" for i in range(24, 19, -1)]
    assert start < html.index("Lost most, General") < html.index("More photos")


def test_faces_are_enlarged_in_the_order_of_what_they_lost() -> None:
    def faced(losses: list[float]) -> list[PhotoScore]:
        return [
            replace(score, regions={"faces": RegionScore(1, 15.0, None, lpips=0.2 + loss)})
            for score, loss in zip(scores(0), losses, strict=True)
        ]

    report = report_of(faced([0.0] * 3), faced([0.05, -0.05, 0.1]))
    box = (2.0, 2.0, 9.0, 12.0)
    pictures = [
        replace(p, whole=False, close_ups=(CloseUp("faces", p.id, p.name, box),))
        for p in pictures_of(scores(0))
    ]
    html = page(report, (), pictures)
    assert 'class="stage"' not in html and html.count('class="close-up"') == 3
    order = [html.index(f'{name}, tuned"') for name in ("c.png", "a.png", "b.png")]
    assert order == sorted(order)
    assert "LPIPS (squeeze) 0.2000 → 0.3000" in html and "12 px high as measured" in html
    image = Image.open(io.BytesIO(base64.b64decode(Page(html).values("src")[0].split(",")[1])))
    assert image.size == (192, 192)


def test_every_slider_says_what_it_is_for() -> None:
    first = scores(0)
    seen = Page(page(report_of(first, scores(1)), (), pictures_of(first)))
    sliders = [value for tag, name, value in seen.attributes if (tag, name) == ("input", "type")]
    assert sliders == ["range"] * 3
    said = {value for tag, name, value in seen.attributes if (tag, name) == ("input", "aria-label")}
    assert len(said) == 3 and all("Line between" in value for value in said)
    assert seen.values("alt").count("a.png, original") == 1


def test_figures_from_sheets_say_so_on_the_page_and_in_the_table() -> None:
    small = {"faces_small": RegionScore(2, 19.0, 0.4, lpips=0.3, sheet=0)}
    models = {name: {"val": [PhotoScore("a", "a.png", psnr=20.0, faces=2, regions=small)]}
              for name in ("base", "tuned")}  # fmt: skip
    report = build_report(models, LPIPS, eval_resolution=512)
    assert report["models"]["tuned"]["val"]["faces_small"]["from_sheets"] == 1
    said = "Validation: the photos show fewer than 30 small faces."
    assert said in page(report)
    assert "2 faces in 1 photo, reduced onto 1 sheet" in print_table(report)
    alone = {"faces_small": RegionScore(2, 19.0, 0.4, lpips=0.3)}
    models["base"]["val"] = [PhotoScore("a", "a.png", psnr=20.0, faces=2, regions=alone)]
    assert said not in page(build_report({"base": models["base"]}, LPIPS, eval_resolution=512))


def test_missing_regions_are_explained() -> None:
    assert "No face was found" in page(report_of(scores(0), scores(1)))
    unknown = [PhotoScore("a", "a", psnr=20.0)]
    assert "--face-detector-weights" in page(report_of(unknown, unknown))


def test_curves_take_the_last_line_of_a_step_and_skip_nulls() -> None:
    lines = [{"step": step, "loss": 100.0} for step in range(10)]
    lines += [{"step": step, "loss": None if step == 3 else step / 9} for step in range(10)]
    html = page(report_of(scores(0), scores(1)), lines)
    assert "Training loss" in html and ">0.25<" in html and ">100<" not in html
    flat = [{"step": step, "loss": 1.0} for step in range(10)]
    assert "Training loss" not in page(report_of(scores(0), scores(1)), flat)


def test_evaluations_are_drawn_base_beside_tuned() -> None:
    def found(psnr: float) -> dict[str, Any]:
        return {"val": {"all": {"n": 3, "psnr": psnr, "ssim": None}}}

    lines = [
        {"step": step, "eval": {"base": found(20.0), "tuned": found(20.0 + step)}}
        for step in (0, 5, 10)
    ]
    html = page(report_of(scores(0), scores(1)), lines)
    assert "Validation: PSNR (dB)" in html and "Validation: SSIM" not in html
    assert "tuned, step 10: 30" in html


# Pieces


def test_elements_escape_whatever_is_not_markup() -> None:
    assert element("p", "<b>", ["&", element("i")], None, id='"') == (
        '<p id="&quot;">&lt;b&gt;&amp;<i></i></p>'
    )
    assert isinstance(element("p", "x"), Markup)
    assert element("input", checked=True, hidden=False, data_x=0) == '<input checked data-x="0">'


def test_control_and_bidi_signs_are_shown() -> None:
    assert element("p", "a\x1b[31m\u202eb") == "<p>a\\x1b[31m\\u202eb</p>"


def test_json_for_a_page_holds_no_sign_that_html_knows() -> None:
    value = {"</script>": ["&", "\u2028", NAN, float("inf")]}
    text = json_text(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"</script>": ["&", "\u2028", None, None]}


def test_markdown_keeps_what_it_says() -> None:
    assert markdown("a|b`c<d>\n# [x](y)") == "a\\|b\\`c&lt;d&gt;\\\\x0a# \\[x\\](y)"


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/alice/photos/", "photos"),
        ("C:\\Users\\alice\\vae.safetensors", "vae.safetensors"),
        ("~/vae", "vae"),
        ("../alice/photos", "photos"),
        ("stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"),
        ("org/name:vae", "org/name:vae"),
        ("demo:train", "demo:train"),
        ("mse", "mse"),
    ],
)
def test_places_are_cut_down_to_names(place: str, shown: str) -> None:
    assert place_name(place) == shown
    assert private({"data": place, "seed": 1, "family": None}) == {
        "data": shown, "seed": 1, "family": None,
    }  # fmt: skip


def test_models_of_one_name_are_told_apart() -> None:
    report = {"models": dict.fromkeys(["/a/vae.safetensors", "/b/vae.safetensors", "x"])}
    assert list(labels(report).values()) == ["vae.safetensors", "vae.safetensors (2)", "x"]


def test_long_curves_are_thinned_to_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert all(y == 0.5 for _, y in thinned)
    assert thinned[0][0] == 49.5
    assert smooth([(0, 0.0), (1, 3.0), (2, 0.0)]) == [(0, 1.5), (1, 1.0), (2, 1.5)]


@pytest.mark.parametrize(("rough", "step"), [(0.9, 1), (1.1, 2), (2.2, 2.5), (30, 50), (0.06, 0.1)])
def test_ticks_are_at_round_numbers(rough: float, step: float) -> None:
    assert nice_step(rough) == pytest.approx(step)


def test_axes_are_logarithmic_where_values_span_far_and_flat_curves_are_drawn() -> None:
    wide = line_chart("x", [Line("a", [(0, 1e-6), (1, 1.0)], "tuned")], "step")
    assert "(logarithmic)" in wide and ">1e-6<" in wide
    flat = line_chart("x", [Line("a", [(0, 2.0), (1, 2.0)], "tuned")], "step")
    assert "nan" not in flat
    assert line_chart("x", [Line("a", [(0, 2.0)], "tuned")], "step") is None
