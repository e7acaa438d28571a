"""All parts of the campaign, in the order in which they are run."""

from benchmarks.reliability_campaign.command_lines import COMMANDS
from benchmarks.reliability_campaign.disk import DISKS
from benchmarks.reliability_campaign.hostile import HOSTILE
from benchmarks.reliability_campaign.kills import KILLS
from benchmarks.reliability_campaign.mutants import CHECKPOINTS, IMAGES
from benchmarks.reliability_campaign.pairs import PAIRS
from benchmarks.reliability_campaign.ranks import RANKS
from benchmarks.reliability_campaign.signals import SIGNAL

PARTS = {part.name: part for part in (KILLS, SIGNAL, DISKS, IMAGES, CHECKPOINTS, HOSTILE, COMMANDS, PAIRS, RANKS)}
