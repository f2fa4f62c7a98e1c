"""Gemma 3, text: Gemma 2 with queries and keys normalised instead of capped, five layers of six with a window, and
those turning slower (Kamath et al. 2025).
"""

from __future__ import annotations

from ramify.models.gemma2 import Gemma2


class Gemma3(Gemma2):
    qk_norm = True
