"""The tables and figures of the paper.

sets        the image sets, and which part of them is used for what
workspace   trained models and evaluations, kept by their settings
report      Markdown, JSON and figures with where they come from
figures     Fig. 1, 5, 6, 7 and 8
toys        Fig. 2 and 3, which need no real images
tables      Table 2, run times, and the defects found on aitex_f02
"""
