#!/usr/bin/env bash
# The two networks that a comparison of checkpoints is scored with: DINO and CLIP. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
bash download/eval-weights.sh

Downloads the networks that the DreamBooth paper measures with, some 690 MB, to weights/eval/, where scores look
for them. The embedded tiny model needs none of this: its judge comes with the project.

  dino-vits16/            DINO ViT-S/16: is it the same thing?           facebook/dino-vits16, Apache 2.0
  clip-vit-base-patch32/  CLIP ViT-B/32: does it show what was asked for? openai/clip-vit-base-patch32, MIT

Run it again at any time: every file is compared with the hash that the Hub lists for it, what is there is left
alone, and what broke off is continued. The weights are pickles; they are read without executing what is in them.

  EVAL_WEIGHTS_DIR  another place than weights/eval/; scores look in weights/eval/, so link to it from there
  HF_TOKEN          your Hugging Face token, should the Hub ask for a login
  HF_ENDPOINT       a mirror of https://huggingface.co
  https_proxy       a proxy
HELP
}

# shellcheck source=download/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The repositories as they were when this was written: a later change there changes nothing here.
DINO_COMMIT=abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd
CLIP_COMMIT=3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268
CLIP_SHA256=a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f

# listed_hash FILE: its hash in the Hub's listing, or nothing. Large files have a SHA-256 under "lfs", small ones
# git's own; an entry's path comes after both, and no brace opens between it and the right one.
listed_hash() {
  tr -d ' \n' <"$SCRATCH/listing.json" |
    grep -oE "\"oid\":\"([0-9a-f]{64}|[0-9a-f]{40})\"[^{]*\"path\":\"${1//./\\.}\"" | head -n 1 | cut -d '"' -f 4
}

# ensure REPOSITORY COMMIT FILE ...: bring the files into a folder of the repository's name.
ensure() {
  local repo=$1 commit=$2 folder=$DIR/${1#*/} file hash
  shift 2
  say "${repo#*/}: asking $HUB for the list of files"
  rm -f "$SCRATCH/listing.json"
  download "$HUB/api/models/$repo/tree/$commit" "$SCRATCH/listing.json"
  for file in "$@"; do
    hash=$(listed_hash "$file") || die "$HUB lists no $file in $repo at $commit.
  See https://huggingface.co/$repo/tree/$commit"
    if [ "$repo/$file" = openai/clip-vit-base-patch32/pytorch_model.bin ]; then hash=$CLIP_SHA256; fi
    if [ -f "$folder/$file" ] && has_hash "$hash" "$folder/$file"; then
      say "  $file: already there"
    else
      say "  $file: downloading"
      fetch "$HUB/$repo/resolve/$commit/$file" "$folder/$file" '' has_hash "$hash"
    fi
  done
}

main() {
  case ${1:-} in
    -h | --help) usage; exit ;;
    '') ;;
    *) die "there is nothing to choose (see --help)." ;;
  esac
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  prepare "${EVAL_WEIGHTS_DIR:-$root/weights/eval}" EVAL_WEIGHTS_DIR

  # The smaller network first: what is wrong with the network shows before the long wait.
  ensure facebook/dino-vits16 "$DINO_COMMIT" config.json preprocessor_config.json pytorch_model.bin
  ensure openai/clip-vit-base-patch32 "$CLIP_COMMIT" \
    config.json preprocessor_config.json vocab.json merges.txt pytorch_model.bin
  say "Done: DINO ViT-S/16 and CLIP ViT-B/32 are in $DIR"
}

main "$@"
