"""How far an answer may drift and still be called the same: the one table that verify, export and the tests read.

Logit errors are relative: max |a - b| / max(1, max |reference|). Mask errors are the share of pixels that change class.
The figures for reduced precision say what arithmetic costs, not what a task tolerates: that is measured at export.
"""

from typing import Final

LOGITS: Final = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 6e-2, "int8": 2.5e-1}
# A variant that was accepted for its masks may drift this many times as far as where it was measured, if that is more.
VARIANT_SLACK: Final = 1.5
MASK_PIXELS: Final = {"fp32": 1e-3, "fp16": 5e-3, "bf16": 2e-2, "int8": 5e-2}

# When a box is the same that fp32 found: corners within so many pixels of the network's input, or an IoU of at least
# this, and scores (or a classifier's probabilities) within that. Then, the share of boxes that may have no counterpart.
FOUND_PIXELS: Final = 0.1
FOUND_OVERLAP: Final = {"fp32": 1.0, "fp16": 0.9, "bf16": 0.75, "int8": 0.5}
FOUND_SCORES: Final = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1, "int8": 3e-1}
FOUND_SHARE: Final = {"fp32": 0.0, "fp16": 2e-2, "bf16": 5e-2, "int8": 1.5e-1}
# How far the IoU of two boxes may move with their corners, which is where NMS may decide otherwise.
NMS_OVERLAP: Final = 2e-3
# A restored sample is the same within so many of its 256 levels. Then, the share of samples that may be further off.
# Four convolutions trained on photographs: bf16 moved no sample by more than 1, int8 up to 1.5 % by more than 8.
RESTORED_LEVELS: Final = {"fp32": 1, "fp16": 2, "bf16": 4, "int8": 8}
RESTORED_SHARE: Final = {"fp32": 0.0, "fp16": 1e-2, "bf16": 2e-2, "int8": 5e-2}
# By task and precision: the share of pixels, boxes or samples that may differ, or a classifier's probability.
ANSWERS: Final = {
    "segmentation": MASK_PIXELS,
    "detection": FOUND_SHARE,
    "localization": FOUND_SHARE,
    "classification": FOUND_SCORES,
    "restoration": RESTORED_SHARE,
}

# JPEG decoders may round a sample differently, and spread colour their own way; a swapped channel is far outside.
DECODE_MEAN: Final = 1.0
# From one decoded image, though, resizing differs only by rounding; another interpolation is far outside.
RESIZE_LEVELS: Final = 2.0
# ops.letterbox, which resizes, rounds exact means once, OpenCV its weights too; nearest pixels are equal.
LETTERBOX_LEVELS: Final = 1
# Likewise from one set of logits to masks: only values at the threshold may fall either way.
POSTPROCESS_PIXELS: Final = 1e-4
# One multiplication, one addition and rounding, each exact in float32 on every machine.
POSTPROCESS_LEVELS: Final = 0
POSTPROCESS: Final = {
    "segmentation": POSTPROCESS_PIXELS,
    "detection": 0.0,
    "localization": 0.0,
    "classification": 1e-6,
    "restoration": 0.0,
}

# Bilinear upsampling in float32, relative to max |logit|: only pixels this close to the threshold may differ.
UPSAMPLE: Final = 1e-5

# Decoded boxes and encoded offsets against other libraries, whose exp and log differ in the last bit: relative to the
# largest magnitude of the row, or to 1.
BOXES: Final = 1e-6
# Softmax scores against other libraries.
SCORES: Final = 1e-6
