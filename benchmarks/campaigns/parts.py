"""All parts of the campaign, in the order in which they are run."""

from benchmarks.campaigns.kills import KILLS

PARTS = {part.name: part for part in (KILLS,)}
