"""Shared by all layers of tests."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `assets` and `tensors`
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported; 0 asks for the GPU
