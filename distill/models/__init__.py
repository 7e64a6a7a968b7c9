"""Frozen backbones and the student's heads."""

from distill.models.backbones import Backbone, Pair, Tokens, load_backbone
from distill.models.josh3r import Josh3r, Josh3rConfig, Josh3rOutput
from distill.models.josh3r_files import load_josh3r
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student, StudentConfig

__all__ = [
    "Backbone", "Josh3r", "Josh3rConfig", "Josh3rOutput", "Pair", "PairPrediction", "Prompts", "Student",
    "StudentConfig", "Tokens", "load_backbone", "load_josh3r",
]  # fmt: skip
