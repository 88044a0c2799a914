"""Machine code that looks at Python's and PyTorch's objects: has anything changed?"""
