"""All parts of the campaign, in the order in which they are run."""

from benchmarks.campaigns.command_lines import COMMANDS
from benchmarks.campaigns.disk import DISKS
from benchmarks.campaigns.hostile import HOSTILE
from benchmarks.campaigns.kills import KILLS
from benchmarks.campaigns.mutants import CHECKPOINTS, IMAGES
from benchmarks.campaigns.pairs import PAIRS
from benchmarks.campaigns.ranks import RANKS
from benchmarks.campaigns.signals import SIGNAL

PARTS = {part.name: part for part in (KILLS, SIGNAL, DISKS, IMAGES, CHECKPOINTS, HOSTILE, COMMANDS, PAIRS, RANKS)}
