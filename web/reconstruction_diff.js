// Fills core's compare slider in Reconstruction Diff: older frontends do so for core's own node only,
// newer ones read a_images and b_images by themselves. Before ComfyUI 0.9.0 there is no slider.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const NODE = "VAELabReconstructionDiff";

function addresses(images) {
  return (images ?? []).map((image) => api.apiURL(`/view?${new URLSearchParams(image)}`));
}

function fillSlider(widget, output) {
  widget.value = {
    beforeImages: addresses(output?.a_images),
    afterImages: addresses(output?.b_images),
  };
  widget.callback?.(widget.value);
}

app.registerExtension({
  name: "VAELab.ReconstructionDiff",

  nodeCreated(node) {
    if (node.constructor.comfyClass !== NODE) return;
    const slider = node.widgets?.find((widget) => widget.type === "imagecompare");
    if (!slider) return;
    // What was shown last is no input: sent along, it would make the node run again.
    slider.options.serialize = false;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      fillSlider(slider, output);
    };
  },
});
