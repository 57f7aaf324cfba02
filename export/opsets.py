"""The ONNX opsets that an export may have. export/predict/, which stands alone, has them once more."""

OPSETS = range(18, 26)
"""torch's exporter writes 18 itself and its converter reaches 25; below and above it silently keeps another opset."""

DEFAULT_OPSET = 18
"""Read by the oldest runtimes: it needs IR version 8 only. ONNX Runtime 1.15.0 was tried, on all four files."""
