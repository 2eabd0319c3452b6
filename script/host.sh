# Steps that make a host ready for Sampan: shared by script/up, script/install, script/down and the machines in vagrant/.
# shellcheck shell=bash disable=SC2154 # ROOT is the caller's

# Docker's own repository, for distributions that have none of their own (CentOS).
add_docker_repository() {
    cat >/etc/yum.repos.d/docker-ce.repo <<'REPO'
[docker-ce-stable]
name=Docker CE Stable
baseurl=https://download.docker.com/linux/centos/$releasever/$basearch/stable
enabled=1
gpgcheck=1
gpgkey=https://download.docker.com/linux/centos/gpg
REPO
}

install_docker() {
    ! snap list docker >/dev/null 2>&1 ||
        { note "remove the snap (snap remove docker) and run this again"; echo "Docker is a snap"; return 1; }
    ! command -v dockerd >/dev/null || unchanged "$(dockerd --version | cut -d, -f1)"
    local manager
    manager=$(package_manager) || return
    case $manager in
    apt)
        # Where the kernel has AppArmor, Docker starts no container without its parser, and only recommends it.
        if grep -qs Y /sys/module/apparmor/parameters/enabled && ! command -v apparmor_parser >/dev/null; then
            install_packages docker.io apparmor
        else
            install_packages docker.io
        fi
        ;;
    dnf) add_docker_repository; install_packages docker-ce docker-ce-cli containerd.io ;;
    esac
    note "installed $(dockerd --version | cut -d, -f1)"
}

install_tools() {
    local manager missing=()
    command -v iptables-restore >/dev/null || missing+=(iptables)
    if [ -z "$(find_python)" ]; then
        manager=$(package_manager) || return
        case $manager in
        apt) missing+=(python3 python3-venv) ;;
        dnf) missing+=(python3.11) ;;
        esac
    fi
    [ "${#missing[@]}" -gt 0 ] || unchanged "iptables, $("$(find_python)" --version)"
    install_packages "${missing[@]}"
    [ -n "$(find_python)" ] || { note "install Python 3.11 or newer with venv"; return 1; }
    note "installed ${missing[*]}"
}

install_sampan() {
    local python wanted stamp=$PREFIX/source-hash
    wanted=$(source_hash "$ROOT")
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$PREFIX/venv/bin/sampan" version >/dev/null 2>&1; then
        unchanged "up to date in $PREFIX"
    fi
    rm -f "$stamp" # what fails below is not up to date
    python=$(find_python)
    mkdir -p "$PREFIX"
    make_environment "$PREFIX/venv" "$python"
    local pip=("$PREFIX/venv/bin/python" -m pip --disable-pip-version-check --quiet)
    "${pip[@]}" install --require-hashes -r "$ROOT/requirements.lock"
    "${pip[@]}" install --no-deps --no-build-isolation --force-reinstall "$ROOT"
    local name
    mkdir -p /usr/local/bin
    for name in "${COMMANDS[@]}"; do ln -sf "$PREFIX/venv/bin/$name" "/usr/local/bin/$name"; done
    install_system_files
    restart_services
    echo "$wanted" >"$stamp"
    note "into $PREFIX"
}

# Services that run take the new version; no container notices.
restart_services() {
    if has_systemd; then
        systemctl try-restart sampan-master sampan-agent
        return
    fi
    local name pid process
    for name in master agent; do
        pid=$(cat "${SAMPAN_RUN_DIR:-/run/sampan}/$name.pid" 2>/dev/null) || continue
        grep -qxz sampan.cli.supervisor "/proc/$pid/cmdline" 2>/dev/null || continue
        process=$(cut -d' ' -f1 "/proc/$pid/task/$pid/children")
        kill -HUP "$pid"
        [ -z "$process" ] || timeout 60 tail --pid="$process" -f /dev/null
    done
}

# What the system's own services read: units, kernel settings and modules, who leaves our links alone. The same list is
# taken away by remove_system_files.
install_system_files() {
    install -D -m 644 "$ROOT/systemd/sampan.sysctl.conf" /etc/sysctl.d/60-sampan.conf
    install -D -m 644 "$ROOT/systemd/sampan.modules.conf" /etc/modules-load.d/sampan.conf
    install -D -m 644 "$ROOT/systemd/sampan.networkmanager.conf" /etc/NetworkManager/conf.d/60-sampan.conf
    install -D -m 644 "$ROOT/systemd/sampan.network" /etc/systemd/network/10-sampan.network
    local name
    grep -v '^#' "$ROOT/systemd/sampan.modules.conf" | while read -r name; do
        modprobe "$name" || true # what is built in has no file; what is missing `sampan up` and `sampan join` tell
    done
    sysctl -q -p /etc/sysctl.d/60-sampan.conf || true # a container may not be allowed to; the agent says what it lacks
    if has_systemd; then
        install -m 644 "$ROOT"/systemd/*.service /etc/systemd/system/
        systemctl daemon-reload
        for name in NetworkManager systemd-networkd; do
            ! systemctl is-active -q "$name" || systemctl reload "$name" || true
        done
    fi
    # Where SELinux has an opinion: what stands in a bin folder may be started by systemd as a service.
    if command -v selinuxenabled >/dev/null && selinuxenabled; then
        restorecon -R "$PREFIX" /etc/systemd/system /etc/sysctl.d /etc/modules-load.d /usr/local/bin || true
    fi
}

remove_system_files() {
    rm -f /etc/sysctl.d/60-sampan.conf /etc/modules-load.d/sampan.conf /etc/NetworkManager/conf.d/60-sampan.conf \
        /etc/systemd/network/10-sampan.network
    local folder
    for folder in /etc/NetworkManager/conf.d /etc/NetworkManager; do # where only our file made them
        rmdir "$folder" 2>/dev/null || true
    done
    if has_systemd; then
        rm -f /etc/systemd/system/sampan-master.service /etc/systemd/system/sampan-agent.service
        systemctl daemon-reload
    fi
}

FIREWALL_SERVICES=(sampan-master sampan-node)
# What this host was set up with counts: script/down is told nothing.
POD_CIDR=${SAMPAN_POD_CIDR:-$(sed -n 's/^pod-cidr: *//p' /etc/sampan/agent.yaml 2>/dev/null || true)}
POD_CIDR=${POD_CIDR:-10.244.0.0/16}

firewalld_runs() { command -v firewall-cmd >/dev/null && timeout 20 firewall-cmd --state >/dev/null 2>&1; }

# firewalld drops what no zone allows, whatever other rules say: ports are opened, and pods and the links of their
# network are trusted. The reload throws others' rules away; Docker and the agent notice and bring theirs back.
open_firewall() {
    if ! firewalld_runs; then
        ! { has_systemd && systemctl is-active -q firewalld; } ||
            { note "systemctl restart firewalld, then run this again"; echo "firewalld runs, and answers nothing"; return 1; }
        unchanged "no firewalld here; open these where another firewall is: 6443, 6444, 10250/tcp, 8472/udp"
    fi
    local name changed=0
    for name in "${FIREWALL_SERVICES[@]}"; do
        cmp -s "$ROOT/systemd/firewalld/$name.xml" "/etc/firewalld/services/$name.xml" && continue
        install -D -m 644 "$ROOT/systemd/firewalld/$name.xml" "/etc/firewalld/services/$name.xml"
        changed=1
    done
    if [ "$changed" -eq 0 ] && firewall-cmd -q --query-service=sampan-node &&
        firewall-cmd -q --zone=trusted --query-source="$POD_CIDR"; then
        unchanged "firewalld lets the cluster through"
    fi
    [ "$changed" -eq 0 ] || firewall-cmd -q --reload # it has to know the services before it can open them
    firewall-cmd -q --permanent "${FIREWALL_SERVICES[@]/#/--add-service=}"
    firewall-cmd -q --permanent --zone=trusted --add-source="$POD_CIDR"
    firewall-cmd -q --permanent --zone=trusted --add-interface=sampan0 --add-interface=sampan.1
    firewall-cmd -q --reload
    note "firewalld: the cluster's ports are open, its pods trusted"
}

close_firewall() {
    firewalld_runs || unchanged "no firewalld here"
    firewall-cmd -q --permanent "${FIREWALL_SERVICES[@]/#/--remove-service=}" || true
    firewall-cmd -q --permanent --zone=trusted --remove-source="$POD_CIDR" || true
    firewall-cmd -q --permanent --zone=trusted --remove-interface=sampan0 --remove-interface=sampan.1 || true
    rm -f /etc/firewalld/services/sampan-{master,node}.xml
    firewall-cmd -q --reload
}

# Where nothing manages services, Docker runs in the background with its log in a file.
start_docker() {
    ! docker_answers || unchanged "$(docker version -f '{{.Server.Version}}') is running"
    if has_systemd; then
        systemctl enable --now docker
    else
        mkdir -p /var/log/sampan
        # What Docker sets up here for the first time goes with it again (script/down --purge).
        iptables -t nat -S DOCKER >/dev/null 2>&1 || touch /run/sampan-dockerd.fresh
        setsid nohup dockerd >>/var/log/sampan/dockerd.log 2>&1 </dev/null &
        echo "$!" >/run/sampan-dockerd.pid
        note "see /var/log/sampan/dockerd.log"
    fi
    local tries=0
    until docker_answers; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || return 1
        sleep 0.5
    done
    note "started $(docker version -f '{{.Server.Version}}')"
}

# Everything up to where `sampan up` or `sampan join` go on.
prepare_host() {
    step "iptables and Python" install_tools
    step "Docker Engine" install_docker
    step "Sampan and its dependencies" install_sampan
    step "Docker" start_docker
    step "Firewall" open_firewall
}
