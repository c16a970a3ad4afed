# What the host has of the images $IMAGES, and what is noted of them in $NOTES.
cat "$NOTES" 2>/dev/null
for image in $IMAGES; do
    docker image inspect "$image" >/dev/null 2>&1 && echo "here - $image"
done
exit 0
