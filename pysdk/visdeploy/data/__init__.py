"""Folders of images and labels, read through one interface.

A file per format turns a folder into a `Dataset`: named pairs that are decoded only when asked for.
"""
