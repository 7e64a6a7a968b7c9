"""The student on onnxruntime: a video in, a result folder out. Needs neither PyTorch nor the teacher (docs/export.md).

Arrays are numpy's. `distill.stream` is the same stream with tensors as results, its network being a student.
"""
