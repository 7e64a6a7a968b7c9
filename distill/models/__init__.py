"""Frozen backbones and the student's heads."""

from distill.models.backbones import Backbone, Pair, Tokens, load_backbone
from distill.models.prediction import PairPrediction, Prompts
from distill.models.student import Student, StudentConfig

__all__ = ["Backbone", "Pair", "PairPrediction", "Prompts", "Student", "StudentConfig", "Tokens", "load_backbone"]
