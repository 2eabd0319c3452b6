#!/usr/bin/env bash
# Prepare a machine of the Vagrantfile, on CentOS Stream 9 or Debian: what script/install does, and the master's cluster.
# Usage: provision.sh master|node ADDRESS
# A node joins afterwards, by the line that the master prints. Run it again at any time.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
ROLE=$1
ADDRESS=$2
SOURCE=${SAMPAN_SOURCE:-/opt/sampan-source}

# The disk may be larger than the box was made for. Where it cannot be grown, what is there has to do.
grow_root() {
    local device disk number kind
    device=$(findmnt -n -o SOURCE /) kind=$(findmnt -n -o FSTYPE /)
    [[ $device =~ ^(/dev/[vs]d[a-z])([0-9]+)$ ]] || return 0
    disk=${BASH_REMATCH[1]} number=${BASH_REMATCH[2]}
    if ! command -v growpart >/dev/null; then
        if command -v dnf >/dev/null; then dnf install -q -y cloud-utils-growpart
        else apt-get update -q && apt-get install -q -y --no-install-recommends cloud-guest-utils
        fi
    fi
    growpart "$disk" "$number" || return 0 # it fills the disk already
    case $kind in
    xfs) xfs_growfs / ;;
    ext4) resize2fs "$device" ;;
    btrfs) btrfs filesystem resize max / ;;
    esac
}

# The master's node takes only pods that ask for it, as kubeadm has it.
mark_master() {
    sampan apply -f - <<NODE
apiVersion: v1
kind: Node
metadata:
  name: $(hostname -s)
  labels:
    node-role.kubernetes.io/control-plane: ""
    node.kubernetes.io/exclude-from-external-load-balancers: ""
spec:
  taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]
NODE
}

export PATH=$PATH:/usr/local/bin
grow_root || echo "the disk could not be grown; going on with $(df -h --output=size / | tail -n 1)"
"$SOURCE/script/install"
[ "$ROLE" = master ] || exit 0
sampan up --progress-only --node-name "$(hostname -s)" --node-ip "$ADDRESS"
mark_master
