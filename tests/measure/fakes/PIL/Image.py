"""Stands in for pillow's Image."""


def new(mode, size, color):
    assert mode == "RGB" and size[0] == size[1]
    return object()
