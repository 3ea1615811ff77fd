"""What comes out: a policy, its episodes, its ONNX file, and estimates of it from data."""
