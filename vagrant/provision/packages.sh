#!/bin/sh
# In a VM: what FusionFS needs to run, and the program itself.
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends fuse3 iproute2 ca-certificates

if [ -f /tmp/fusion ]; then
    install -m 0755 /tmp/fusion /usr/local/bin/fusion
elif [ ! -x /usr/local/bin/fusion ]; then
    # Takes about 15 minutes on 2 cores.
    install -m 0755 "$(/fusionfs/x build | tail -n 1)" /usr/local/bin/fusion
fi
# mount -t fusion, and /etc/fstab.
ln -sf /usr/local/bin/fusion /usr/sbin/mount.fusion
ln -sf /usr/local/bin/fusion /usr/sbin/mount.fuse.fusion
