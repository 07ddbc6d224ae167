"""Data sets and transforms for training and evaluation.

Needs the packages of the extra ``train``: ``pip install "vitkern[train]"``.
"""
