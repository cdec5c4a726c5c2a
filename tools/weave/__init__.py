"""Rendered footage of a woven web: yarns, weave, camera, planted defects.

noise      random numbers that are functions of a position
product    what is woven and how it is filmed: numbers only
yarns      where each yarn lies, how thick and how bright it is
cloth      the lit surface of the web, and what the camera makes of it
shapes     curves and blobs that defects are made of
defects    the six kinds of planted defects
presets    the footage that is rendered with this
recording  frames, masks, list of defects on disk
"""
