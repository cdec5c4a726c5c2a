"""The commands. This is read before any of them loads torch, whose threads take their manners from the environment."""

import os

# Threads that spin while they wait for each other take the core that the other one needs, wherever something else runs
# beside them: 0.06 instead of 0.76 MPix/s beside one busy process on two cores (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
