# Pulls $IMAGE, as $REGISTRY_USER of $SERVER (empty: of Docker's own registry) with the password in $LOGIN, a directory
# that goes afterwards; no user: as anybody. Notes in $NOTES how it went ("pulled STAMP IMAGE" or "tried …"). An image that
# can't be had is no failure of the roll-out: the host tries again when it is asked for it.
if [ -n "$REGISTRY_USER" ]; then
    trap 'rm -rf "$LOGIN"' EXIT
    DOCKER_CONFIG=$LOGIN
    export DOCKER_CONFIG
fi
log=$NOTES.log
pull() {
    if [ -n "$REGISTRY_USER" ]; then
        docker login --username "$REGISTRY_USER" --password-stdin ${SERVER:+"$SERVER"} <"$LOGIN/password" || return
    fi
    docker pull --quiet "$IMAGE"
}
echo "images: pulling $IMAGE"
pull >"$log" 2>&1 &
job=$!
trap 'kill "$job" 2>/dev/null; exit 1' INT TERM HUP
ticks=0
while kill -0 "$job" 2>/dev/null; do
    sleep 0.2
    ticks=$((ticks + 1))
    [ $((ticks % 10)) -eq 0 ] && echo "images: pulling $IMAGE ($((ticks / 5)) s)"
done
if wait "$job"; then
    how=pulled
else
    how=tried
    echo "images: $IMAGE can't be pulled now, the host tries again at its first desktop: $(tail -n 1 "$log" | cut -c1-200)"
fi
{
    awk -v image="$IMAGE" '$3 != image' "$NOTES" 2>/dev/null
    echo "$how $STAMP $IMAGE"
} >"$NOTES.new"
mv -fT "$NOTES.new" "$NOTES"
rm -f "$log"
exit 0
