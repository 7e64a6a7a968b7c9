"""The student on onnxruntime: a video in, a result folder out. Needs neither PyTorch nor the teacher (docs/export.md).

Arrays are numpy's. What `distill.stream` does with tensors is done here with arrays, part by part the same
(`tests/test_runner.py` compares them); fuser, tracker, odometry and files are the same code.
"""
