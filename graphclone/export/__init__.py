"""Where children go: a Hugging Face folder, PyTorch files, ONNX; always to a temporary name first, renamed when whole."""
