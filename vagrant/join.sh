#!/bin/sh
# On the host: lets the VM of a zone join the cluster. `join.sh ZONE ADDRESS`
# The Vagrantfile calls it after `vagrant up`; a zone that has joined stays as it is.
set -eu
cd "$(dirname "$0")"

zone=$1
address=$2
if vagrant ssh "$zone" -c 'test -e /var/lib/fusion/fusion.toml' 2>/dev/null; then
    exit 0
fi
# "fusion join TOKEN --advertise ..." -> TOKEN
token=$(vagrant ssh z1 -c "sudo fusion token create --quiet --zone $zone" 2>/dev/null |
    awk '{ print $3 }' | tr -d '\r')
vagrant ssh "$zone" -c "sudo /fusionfs/vagrant/provision/zone.sh $zone $address '$token'"
