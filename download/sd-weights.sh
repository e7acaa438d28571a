#!/usr/bin/env bash
# Stable Diffusion v1's weights and CLIP's tokenizer files. See --help.
set -euo pipefail

usage() {
  cat <<'HELP'
bash download/sd-weights.sh [v1-4 | v1-5]

Downloads the Stable Diffusion v1 checkpoint (about 4 GB) and CLIP's tokenizer files to weights/sd-v1/, where
every command of this project looks for them:

  v1-4   sd-v1-4.ckpt                              (the default)
  v1-5   v1-5-pruned-emaonly.ckpt
  both   tokenizer/vocab.json, tokenizer/merges.txt

Run it again at any time: what is there is verified and left alone, what broke off is continued, and a
checkpoint gets its name only when its SHA-256 is right. By downloading you accept the licence of the weights,
CreativeML OpenRAIL-M: https://huggingface.co/spaces/CompVis/stable-diffusion-license

  SD_WEIGHTS_DIR   another place than weights/sd-v1/
  HF_TOKEN         your Hugging Face token, if the repository asks for a login
  HF_ENDPOINT      a mirror of https://huggingface.co
  https_proxy      a proxy

No network on this machine? Download the files elsewhere, copy them there under these names, and run this to
verify them.
HELP
}

# shellcheck source=download/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

is_checkpoint() {
  say "  verifying the SHA-256"
  has_hash "$1" "$2"
}

# The tokenizer files are checked by what CLIP's must hold: 49408 tokens (256 bytes, within a word and at its
# end; one for each of 48894 merges; two special ones, which come last).
is_vocab() {
  local tokens ends
  tokens=$(LC_ALL=C grep -oE '": *[0-9]+' "$1" | wc -l) || tokens=0  # a quote inside a token is escaped
  ends=$(head -c 1 "$1")$(tail -c 2 "$1")
  if [ $((tokens)) -eq 49408 ] && [[ $ends == "{"*"}" ]] &&
    grep -qE '"<\|startoftext\|>": *49406' "$1" && grep -qE '"<\|endoftext\|>": *49407' "$1"; then return; fi
  say "  expected  JSON with CLIP's 49408 tokens" "  got       $((tokens)) tokens, $(size_of "$1") bytes"
  return 1
}

is_merges() {
  local merges
  merges=$(LC_ALL=C awk 'NR > 1 && NF { if (NF == 2) n++; else odd++ } END { print odd ? 0 : n + 0 }' "$1")
  if [ "$merges" -eq 48894 ] && [ "$(head -c 8 "$1")" = "#version" ]; then return; fi
  say "  expected  #version and 48894 merges of two" "  got       $merges merges, $(size_of "$1") bytes"
  return 1
}

# ensure URL FILE CHECK [ARG ...]: fetch FILE unless it is there and holds.
ensure() {
  local url=$1 file=$2
  shift 2
  if [ -f "$file" ]; then
    say "${file##*/}: already there"
    if "$@" "$file"; then return; fi
    say "  not the right file: downloading it anew. The old one stays until the new one is complete."
  else
    say "${file##*/}: downloading"
  fi
  fetch "$url" "$file" '' "$@"
}

main() {
  local repo file sha256
  case ${1:-v1-4} in
    -h | --help) usage; exit ;;
    v1-4)
      repo=CompVis/stable-diffusion-v-1-4-original file=sd-v1-4.ckpt
      sha256=fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556 ;;
    v1-5)  # the mirror that took the place of the repository its publisher withdrew
      repo=stable-diffusion-v1-5/stable-diffusion-v1-5 file=v1-5-pruned-emaonly.ckpt
      sha256=cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516 ;;
    *) die "there is no version '$1' here: v1-4 or v1-5 (see --help)." ;;
  esac
  [ $# -le 1 ] || die "one version at a time: v1-4 or v1-5 (see --help)."

  local root clip=$HUB/openai/clip-vit-large-patch14/resolve/main
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  prepare "${SD_WEIGHTS_DIR:-$root/weights/sd-v1}" SD_WEIGHTS_DIR

  # The small files first: what is wrong with the network shows before the long wait.
  ensure "$clip/vocab.json" "$DIR/tokenizer/vocab.json" is_vocab
  ensure "$clip/merges.txt" "$DIR/tokenizer/merges.txt" is_merges
  ensure "$HUB/$repo/resolve/main/$file" "$DIR/$file" is_checkpoint "$sha256"
  say "Done: Stable Diffusion ${1:-v1-4} is in $DIR"
}

main "$@"
