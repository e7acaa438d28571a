"""All parts of the campaign, in the order in which they are run."""

from benchmarks.campaigns.disk import DISKS
from benchmarks.campaigns.kills import KILLS
from benchmarks.campaigns.mutants import CHECKPOINTS, IMAGES
from benchmarks.campaigns.pairs import PAIRS
from benchmarks.campaigns.ranks import RANKS
from benchmarks.campaigns.signals import SIGNAL

PARTS = {part.name: part for part in (KILLS, SIGNAL, DISKS, IMAGES, CHECKPOINTS, PAIRS, RANKS)}
