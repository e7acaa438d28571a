# shellcheck shell=bash
# What the download scripts share. Sourced, never run. Needs bash (3.2 will do), curl and a SHA-256 program.
#
# A file arrives as <name>.part, is checked, and only then takes its name: what has its final name is whole
# and right. What an interruption leaves is <name>.part, and the next run goes on from there.

HUB=${HF_ENDPOINT:-https://huggingface.co}
HUB=${HUB%/}
MAX_FAILURES=5                  # attempts in a row that brought nothing new
SCRATCH=$(mktemp -d)            # curl's answers; removed on exit
DIR='' DIR_VARIABLE=''          # where the files go, and the variable that can change it

say() { printf '%s\n' "$@" >&2; }
die() { say "error: $*"; exit 1; }

size_of() { if [ -f "$1" ]; then echo $(($(wc -c <"$1"))); else echo 0; fi; }
human() { awk -v n="$1" 'BEGIN { if (n >= 1e9) printf "%.1f GB", n / 1e9
  else if (n >= 1e6) printf "%.1f MB", n / 1e6; else printf "%.1f kB", n / 1e3 }'; }

# --- leaving ----------------------------------------------------------------------------------------------

trap 'rm -rf "$SCRATCH"' EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

interrupted() {
  # shellcheck disable=SC2046  # process ids: curl's, if one is running
  kill $(jobs -p) 2>/dev/null || true
  wait
  say "" "Interrupted. What has arrived is kept: the same command goes on from there."
  exit "$1"
}

# --- before the first byte --------------------------------------------------------------------------------

# prepare DIR VARIABLE: find out what is missing or wrong here, and make DIR.
prepare() {
  DIR=$1 DIR_VARIABLE=$2
  command -v curl >/dev/null ||
    die "curl is not installed. Install it (conda install curl) and run this again."
  command -v sha256sum >/dev/null || command -v shasum >/dev/null ||
    die "neither sha256sum nor shasum is installed, so nothing could be verified. Install coreutils."
  case $HUB in
    http://* | https://*) ;;
    *) die "HF_ENDPOINT must start with https://, but it is '$HUB'." ;;
  esac
  if [[ ${HF_TOKEN:-} == *[[:space:][:cntrl:]\"\\]* ]]; then
    die "HF_TOKEN holds a space, a line break or a quote. Set it to the token alone (hf_...)."
  fi
  mkdir -p "$DIR" || die "cannot make the directory $DIR. Set $DIR_VARIABLE to one that you may write to."
  [ -w "$DIR" ] || die "cannot write to $DIR. Set $DIR_VARIABLE to a directory that you may write to."
  lock "$DIR"
}

# Two runs would write to one .part. The lock is on the open directory: it ends with the processes that hold
# it (curl inherits it), so it is never stale. Without flock (macOS) the hash still keeps out a mixed-up file.
lock() {
  command -v flock >/dev/null || return 0
  exec 9<"$1"
  # 1 is "held by another"; anything else is a file system without locks.
  flock -n 9 2>/dev/null || [ $? -ne 1 ] ||
    die "another download into $1 is running. Wait for it, or stop it."
}

# check_space FILE BYTES: is there room for the rest of FILE? What cannot be found out stops nothing.
check_space() {
  local file=$1 size=$2 rest free
  [[ $size =~ ^[0-9]+$ ]] || return 0
  # The number before "Use%", since the columns to its left may hold spaces.
  free=$(df -Pk "$DIR" | awk '
    NR == 2 { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) { print $(i - 1); exit } }') || return 0
  [[ $free =~ ^[0-9]+$ ]] || return 0
  rest=$((size - $(size_of "$file.part")))
  [ $((rest / 1024)) -lt "$free" ] || die \
    "not enough room for ${file##*/}: $(human "$rest") to come, $(human $((free * 1024))) free in $DIR.
  Free some space, or set $DIR_VARIABLE to a directory on a larger disk, and run this again."
}

# --- HTTP -------------------------------------------------------------------------------------------------

# The token goes through a pipe, because everyone can read the command line in ps. As a header it stays with
# the Hub: curl drops it when a redirect leads to another host.
curl_config() { [ -z "${HF_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$HF_TOKEN"; }

# Call it in a subshell (a pipe, or &), which it turns into curl, so that the subshell's process id is curl's.
become_curl() {
  exec curl --config - --fail --location --proto '=http,https' --connect-timeout 20 "$@" < <(curl_config)
}

# remote_size URL: the bytes behind it, or nothing. The Hub tells them in a header of its own (X-Linked-Size),
# because the store that it redirects to need not answer a HEAD request.
remote_size() {
  become_curl --silent --head --max-time 30 "$1" 2>/dev/null | tr -d '\r' | awk '
    /^HTTP/                          { ok = $2 ~ /^2/ }
    tolower($1) == "x-linked-size:"  { linked = $2 }
    tolower($1) == "content-length:" { if (ok) last = $2 }
    END                              { print linked ? linked : last }' || true
}

# attempt URL PART: get what PART lacks. Sets CURL_STATUS, HTTP_STATUS, ANSWERED (the last host asked).
attempt() {
  local progress=-sS
  if [ -t 2 ] && [ -z "${QUIET:-}" ]; then progress=--progress-bar; fi
  # In the background, because bash handles a signal at once only while it waits.
  become_curl "$progress" --continue-at - --speed-limit 1024 --speed-time 60 \
    --output "$2" --write-out '%{http_code} %{url_effective}\n' "$1" >"$SCRATCH/status" &
  CURL_STATUS=0
  wait $! || CURL_STATUS=$?
  read -r HTTP_STATUS ANSWERED <"$SCRATCH/status" || true
  ANSWERED=${ANSWERED#*://}
  ANSWERED=${ANSWERED%%/*}
}

# Would the same request stand a chance in a few seconds?
may_pass() {
  case $CURL_STATUS/$HTTP_STATUS in
    22/408 | 22/425 | 22/429 | 22/5??) return 0 ;;
    5/* | 6/* | 7/* | 16/* | 18/* | 28/* | 35/* | 52/* | 55/* | 56/* | 92/*) return 0 ;;
    *) return 1 ;;
  esac
}

# download URL PART: all of it, over as many attempts as bring something new.
download() {
  local url=$1 part=$2 failures=0 size largest
  largest=$(size_of "$part")
  if [ "$largest" -gt 0 ]; then say "  going on from $(human "$largest")"; fi
  while :; do
    attempt "$url" "$part"
    # 416: nothing comes after the bytes that are here. Whether they are the right ones, the check will say.
    if [ "$HTTP_STATUS" = 416 ] && [ -s "$part" ]; then return; fi
    if [ "$CURL_STATUS" = 0 ]; then return; fi
    if [ "$CURL_STATUS" = 33 ]; then
      say "  $ANSWERED cannot send only the rest of a file: starting over"
      rm -f "$part"
    elif ! may_pass; then
      explain "$url" "$part"
    fi
    size=$(size_of "$part")
    if [ "$size" -gt "$largest" ]; then largest=$size failures=0; fi
    failures=$((failures + 1))
    if [ "$failures" -ge "$MAX_FAILURES" ]; then explain "$url" "$part"; fi
    if [ "$CURL_STATUS" != 33 ]; then
      say "  trying again in $((1 << failures)) s"
      sleep $((1 << failures))
    fi
  done
}

# --- when it cannot be done -------------------------------------------------------------------------------

# explain URL PART: say what ended the last attempt and what to do about it, and leave.
explain() {
  local url=$1 part=$2 notes=''
  if [ -n "${HF_ENDPOINT:-}" ]; then
    notes="
  (HF_ENDPOINT is set, to $HF_ENDPOINT.)"
  fi
  if [ -s "$part" ]; then
    notes="$notes
  ${part##*/} ($(human "$(size_of "$part")")) is kept: the same command goes on from there."
  fi
  case $CURL_STATUS/$HTTP_STATUS in
    22/401 | 22/403) explain_login "$url" ;;
    22/404) die "there is no $url (HTTP 404).$notes" ;;
    22/429) die "$ANSWERED has had too many requests from here (HTTP 429).
  Wait some minutes and run this again; with HF_TOKEN set the Hub allows more.$notes" ;;
    22/*) die "$ANSWERED answered HTTP $HTTP_STATUS for $url.
  Run this again later, or name a mirror: HF_ENDPOINT=https://<mirror>.$notes" ;;
    23/*) die "cannot write $part: the disk is full, a quota is used up, or the place is not yours.
  Free some space, or set $DIR_VARIABLE to a directory on another disk, and run this again.$notes" ;;
    51/* | 60/* | 77/*) die "the certificate of $ANSWERED was not accepted. Does a proxy read the traffic?
  Then set CURL_CA_BUNDLE to the file with its certificate.$notes" ;;
    5/* | 6/* | 7/* | 28/* | 35/*) die "cannot reach $ANSWERED (curl's error $CURL_STATUS, above).
  Is there a network? Behind a proxy, set https_proxy. Where the Hub is out of reach, name a mirror:
  HF_ENDPOINT=https://<mirror>.$notes" ;;
    *) die "the connection to $ANSWERED keeps breaking off (curl's error $CURL_STATUS, above).
  Run this again later, or name a mirror: HF_ENDPOINT=https://<mirror>.$notes" ;;
  esac
}

# explain_login URL. The page where a licence is accepted is the repository's, on the Hub itself.
explain_login() {
  local page=${1#"$HUB"}
  page=${page#/api}
  page=${page%%/resolve/*}
  page=https://huggingface.co${page%%/tree/*}
  if [ -n "${HF_TOKEN:-}" ]; then
    die "$ANSWERED does not let HF_TOKEN read this repository (HTTP $HTTP_STATUS).
  Is the token still valid, and has its owner accepted the licence on $page?"
  fi
  die "$ANSWERED asks for a login (HTTP $HTTP_STATUS).
  1. Log in and accept the licence on  $page
  2. Make a token with read access on  https://huggingface.co/settings/tokens
  3. Run this again with               HF_TOKEN=hf_... in front"
}

# --- whole and right --------------------------------------------------------------------------------------

# digest BITS FILE: its SHA in hexadecimal
digest() {
  if command -v "sha${1}sum" >/dev/null; then "sha${1}sum"; else shasum -a "$1"; fi <"$2" | cut -d ' ' -f 1
}

# has_hash HASH FILE. 64 digits are a SHA-256; 40 are git's name for a content, a SHA-1 with the size in it.
has_hash() {
  local got
  if [ ${#1} -eq 64 ]; then
    got=$(digest 256 "$2")
  else
    { printf 'blob %d\0' "$(size_of "$2")" && cat "$2"; } >"$SCRATCH/blob"
    got=$(digest 1 "$SCRATCH/blob")
  fi
  [ "$got" = "$1" ] || { say "  expected  $1" "  got       $got"; return 1; }
}

# fetch URL FILE BYTES CHECK [ARG ...]: bring FILE, for which `CHECK ARG ... FILE` must hold. BYTES may be ''.
fetch() {
  local url=$1 file=$2 size=$3
  shift 3
  if [ -d "$file" ]; then die "$file is a directory. Move it away and run this again."; fi
  mkdir -p "${file%/*}"
  if [ -z "$size" ]; then size=$(remote_size "$url"); fi
  check_space "$file" "$size"
  download "$url" "$file.part"
  if ! "$@" "$file.part"; then
    rm -f "$file.part"  # going on from wrong bytes would never mend them
    die "what came from $url is not the right file, and was removed.
  Run this again to start over. If it happens twice, the server or a proxy on the way changes the file."
  fi
  mv -f "$file.part" "$file"
}
