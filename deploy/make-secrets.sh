#!/bin/sh
# Make each secret that is not there yet: make-secrets.sh FILE...
# A file is readable to all who see it: those to whom compose gives its volume.
set -eu
umask 022
for file in "$@"; do
    if [ ! -s "$file" ]; then
        od -A n -t x1 -N 24 /dev/urandom | tr -d ' \n' > "$file.new"
        mv "$file.new" "$file"
        echo "made $file"
    fi
done
