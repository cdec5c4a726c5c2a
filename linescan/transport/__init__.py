"""How messages travel between processes: over ZeroMQ, or within one process for tests in lockstep."""

from linescan.transport.network import Client, Network, Publication, Received, Sent, Server, Subscription, waiting

__all__ = ["Client", "Network", "Publication", "Received", "Sent", "Server", "Subscription", "waiting"]
