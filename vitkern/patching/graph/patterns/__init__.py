"""The patterns, a file each: what node they start at, and what they propose there.

A pattern is a generator of :class:`~vitkern.patching.graph.candidate.Candidate`, from the largest
to the smallest: the first one that is right in the graph and that an op takes is the one that is
used. A pattern only says what the nodes *mean*; whether they may go (who else uses them, what
changes in place in between, dtypes, backends) is :mod:`vitkern.patching.graph.rewriting`'s.
"""

from vitkern.patching.graph.patterns import attention, embedding, linear, norm, windows

# In this order over the whole graph: sums that linear layers take with them are no norm's any more,
# and windows take linear layers with them.
PATTERNS = (windows, linear, attention, embedding, norm)
