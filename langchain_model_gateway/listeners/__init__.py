"""The listeners to a gateway's calls: LangChain's handlers and tracers, and the log.

They stand at the edge, one module each; the decision does not know them.
"""
