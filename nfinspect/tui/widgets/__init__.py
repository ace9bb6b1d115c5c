"""Widgets drawn line by line, so that a key costs a few hundred bytes over SSH and a long list costs one
page.
"""
