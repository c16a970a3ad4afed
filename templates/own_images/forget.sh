# Takes away $IMAGES, which we pulled, and what is noted of them in $NOTES. One that a container still uses stays.
for image in $IMAGES; do
    ! docker image inspect "$image" >/dev/null 2>&1 || docker image rm "$image" >/dev/null 2>&1 ||
        echo "images: $image is kept, as something uses it"
    awk -v image="$image" '$3 != image' "$NOTES" >"$NOTES.new" && mv -fT "$NOTES.new" "$NOTES"
done
