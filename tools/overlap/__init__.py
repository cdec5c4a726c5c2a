"""What the measurements of overlapping patches share: sets of webs, passes over their grids, and coarse scores."""
