#!/usr/bin/env bash
# The public DreamBooth dataset: 30 subjects, 4-6 photos each. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
bash download/dreambooth-data.sh [--list] [SUBJECT ...]

Downloads the DreamBooth dataset (google/dreambooth on the Hugging Face Hub, some 25 MB) to data/dreambooth/:
all 30 subjects, or those that you name.

  <subject>/00.jpg ...          4-6 photos
  prompts_and_classes.txt       the class of each subject, and the 25 prompts that the paper evaluates with
  references_and_licenses.txt   who took the photos

--list prints the subjects and their classes. To train on one of them:

  bash download/dreambooth-data.sh dog
  python dreambooth.py -c dog -i data/dreambooth/dog

Run it again at any time: every file is compared with the hash that the Hub lists for it, and only what is
missing or wrong is downloaded.

  DREAMBOOTH_DATA_DIR   another place than data/dreambooth/
  HF_TOKEN              your Hugging Face token, should the Hub ask for a login
  HF_ENDPOINT           a mirror of https://huggingface.co
  https_proxy           a proxy
HELP
}

# subject and class, as in the dataset's prompts_and_classes.txt
subjects() {
  cat <<'TABLE'
backpack             backpack
backpack_dog         backpack
bear_plushie         stuffed animal
berry_bowl           bowl
can                  can
candle               candle
cat                  cat
cat2                 cat
clock                clock
colorful_sneaker     sneaker
dog                  dog
dog2                 dog
dog3                 dog
dog5                 dog
dog6                 dog
dog7                 dog
dog8                 dog
duck_toy             toy
fancy_boot           boot
grey_sloth_plushie   stuffed animal
monster_toy          toy
pink_sunglasses      glasses
poop_emoji           toy
rc_car               toy
red_cartoon          cartoon
robot_toy            toy
shiny_sneaker        sneaker
teapot               teapot
vase                 vase
wolf_plushie         stuffed animal
TABLE
}

# shellcheck source=download/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The Hub's listing of a repository, JSON, as lines "hash bytes path". A photo's hash is the SHA-256 under
# "lfs"; a small text has only git's ("oid"). With "lfs" flattened, each entry is one pair of braces.
parse_listing() {
  tr -d ' \n' <"$1" | sed 's/"lfs":{[^}]*"oid":"\([^"]*\)"[^}]*}/"sha256":"\1"/g' | tr '}' '\n' | awk '
    function field(name,    found) {
      if (!match($0, "\"" name "\":\"?[^\",]+")) return ""
      found = substr($0, RSTART, RLENGTH)
      sub("^\"" name "\":\"?", "", found)
      return found
    }
    field("type") == "file" {
      hash = field("sha256")
      print (hash ? hash : field("oid")), field("size"), field("path")
    }'
}

# wanted SUBJECT ...: the lines of the listing that they need. The pattern of the path sees to it that nothing
# in the listing leads out of the directory.
wanted() {
  local name line='^([0-9a-f]{40}|[0-9a-f]{64}) [0-9]+ dataset'
  for name in "$@"; do
    grep -E "$line/$name/[0-9A-Za-z_-]+\.jpg$" "$SCRATCH/listing" || moved "photos of $name"
  done
  grep -E "$line/prompts_and_classes\.txt$" "$SCRATCH/listing" || moved prompts_and_classes.txt
  grep -E "$line/references_and_licenses\.txt$" "$SCRATCH/listing" || moved references_and_licenses.txt
}

moved() {
  die "$HUB lists no $1 in google/dreambooth.
  Has the dataset changed? See https://huggingface.co/datasets/google/dreambooth/tree/main"
}

main() {
  local names name root
  names=$(subjects | cut -d ' ' -f 1)
  case ${1:-} in
    -h | --help) usage; exit ;;
    --list) subjects; exit ;;
  esac
  for name in "$@"; do
    printf '%s\n' "$names" | grep -xF -e "$name" >/dev/null || die "there is no subject '$name'. There are:
$(printf '%s' "$names" | tr '\n' ' ' | fold -s -w 100 | sed 's/^/  /; s/ *$//')"
  done
  # shellcheck disable=SC2086  # one word a name
  [ $# -gt 0 ] || set -- $names

  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  prepare "${DREAMBOOTH_DATA_DIR:-$root/data/dreambooth}" DREAMBOOTH_DATA_DIR
  QUIET=1  # one line a photo is progress enough

  # Some 200 entries; the Hub splits a listing into pages from 1000 on.
  say "asking $HUB for the list of photos"
  download "$HUB/api/datasets/google/dreambooth/tree/main/dataset?recursive=true" "$SCRATCH/listing.json"
  parse_listing "$SCRATCH/listing.json" >"$SCRATCH/listing"
  wanted "$@" >"$SCRATCH/wanted"

  local hash size path file count=0 new=0 total
  total=$(($(wc -l <"$SCRATCH/wanted")))
  while read -r hash size path; do
    file=$DIR/${path#dataset/}
    count=$((count + 1))
    if [ -f "$file" ] && has_hash "$hash" "$file"; then continue; fi
    say "[$count/$total] ${path#dataset/}"
    fetch "$HUB/datasets/google/dreambooth/resolve/main/$path" "$file" "$size" has_hash "$hash"
    new=$((new + 1))
  done <"$SCRATCH/wanted"
  say "Done: $total files in $DIR ($new new, $((total - new)) already there)"
}

main "$@"
