# Whether $URL can be downloaded right now, in 10 s at most: says "obtainable", or why not. Keeps nothing.
# apt's own downloader: it is on every host, goes through the same proxy as apt, checks the hash, and works as _apt.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chown _apt "$work" 2>/dev/null || true
case $URL in
    file://*) cp "${URL#file://}" "$work/package" 2>&1 && echo "$SHA256  $work/package" | sha256sum -c --quiet - >/dev/null 2>&1 ||
        { [ -e "$work/package" ] && echo "Hash Sum mismatch"; exit 0; } ;;
    *) timeout 10 /usr/lib/apt/apt-helper -q -o Acquire::Retries=0 \
        download-file "$URL" "$work/package" "SHA256:$SHA256" 2>&1 ;;
esac
case $? in
    0) echo obtainable ;;
    # Slow, but it comes: the roll-out itself takes its time.
    124) if [ -s "$work/package" ]; then echo obtainable; else echo silent; fi ;;
esac
exit 0
