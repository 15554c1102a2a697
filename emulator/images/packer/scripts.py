"""The two scripts that turn a Debian, running or just unpacked by its installer, into an image of a recipe.

They are rendered from the same recipe that the image builder reads, and lay in the same files, so that there is one
list of packages and one configuration. Both are POSIX shell: a guest has nothing else for certain.
"""

from __future__ import annotations

from collections.abc import Iterable

from emulator.images.recipe import Recipe

#: Where the files lie in the guest while it is made an image. Its presence marks a system that is not finished.
WORK_DIRECTORY = "/var/tmp/hyperscaler-image"  # noqa: S108 - of the guest, made with mode 0700

# The keyrings lie where apt's own user cannot read them, hence root.
_APT = " -o ".join(
    (
        "apt-get --yes --no-install-recommends",
        "Dpkg::Options::=--force-unsafe-io",
        "Dpkg::Options::=--force-confnew",
        "APT::AutoRemove::RecommendsImportant=false",
        "APT::AutoRemove::SuggestsImportant=false",
        "APT::Sandbox::User=root",
        "Acquire::Languages=none",
    )
)

# What a system that has run, or its installer, leaves behind: identities, logs, caches.
_TRACES = (
    "/etc/apt/sources.list~",
    "/etc/default/locale",
    "/etc/machine-id",
    "/etc/ssh/lab_keys/*",
    "/home/*/.ssh/*",
    "/home/*/.bash_history",
    "/root/.bash_history",
    "/root/.cache",
    "/root/.ssh/*",
    "/root/.wget-hsts",
    "/tmp/*",  # noqa: S108 - of the guest, as the next ones
    "/tmp/.[!.]*",  # noqa: S108
    "/var/cache/apt/*.bin",
    "/var/cache/debconf/*-old",
    "/var/lib/dhcp/*.leases",
    "/var/lib/dpkg/*-old",
    "/var/lib/systemd/coredump/*",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/timers/*",
    "/var/log/installer",
    "/var/log/journal",
    "/var/tmp/*",  # noqa: S108
)


def install_script(recipe: Recipe) -> str:
    """The script `install`: exactly the recipe's packages and what they need, and the files that are laid over them.

    It runs as root, in the directory of `overlay.tar`, `sources.list`, `keyrings/` and `apt.conf`, and can be repeated.
    """
    wanted = " ".join((recipe.kernel, *recipe.packages))
    names = " ".join(word.partition("=")[0] for word in (recipe.kernel, *recipe.packages))
    kernel = recipe.kernel.partition("=")[0]
    excludes = "".join(f"path-exclude={path}\n" for path in recipe.exclude_paths)
    includes = "".join(f"path-include={path}\n" for path in recipe.include_paths)
    return f"""#!/bin/sh
# Makes this system the image {recipe.name}: written by `hyperscaler image packer-files` from the recipe.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 SYSTEMD_OFFLINE=1
[ ! -s "$here/apt.conf" ] || export APT_CONFIG="$here/apt.conf"

# Nothing that is installed starts here: the image is not a machine that works.
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
cat >/etc/dpkg/dpkg.cfg.d/99hyperscaler-image <<'END'
{excludes}{includes}END
if [ -s "$here/sources.list" ]; then
    rm -f /etc/apt/sources.list.d/*
    sed "s|@KEYRINGS@|$here/keyrings|g" "$here/sources.list" >/etc/apt/sources.list
fi
# Else a kernel that runs could not be removed without an answer.
echo 'linux-base linux-base/removing-running-kernel boolean false' | debconf-set-selections

apt="{_APT}"
$apt update
$apt dist-upgrade
$apt install {wanted}

# Only what the recipe names, what Debian requires, and what those need.
apt-mark auto $(apt-mark showmanual) >/dev/null
apt-mark manual apt {names} \\
    $(dpkg-query -W -f '${{Priority}} ${{Package}}\\n' | sed -n 's/^required //p') >/dev/null
newest=$(dpkg-query -W -f '${{Depends}}' {kernel} | sed 's/[ ,].*//')
for package in $(dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\\n' 'linux-image-[0-9]*' |
    sed -n 's/^installed //p'); do
    [ "$package" = "$newest" ] || $apt purge "$package"
done
$apt autoremove --purge
left=$(dpkg-query -W -f '${{db:Status-Status}} ${{Package}}\\n' | sed -n 's/^config-files //p')
[ -z "$left" ] || dpkg --purge $left
$apt clean

{_remove_excluded(recipe)}
tar -xp --numeric-owner --xattrs --xattrs-include='*' -f "$here/overlay.tar" -C /
rm -f /etc/dpkg/dpkg.cfg.d/99hyperscaler-image /usr/sbin/policy-rc.d
sync
"""


def _remove_excluded(recipe: Recipe) -> str:
    """Removes what dpkg would not have unpacked, for packages installed before.

    `*` spans '/' for find as for dpkg, and dpkg keeps directories and links.
    """
    kept = "".join(f" ! -path '{path}'" for path in recipe.include_paths)
    lines = []
    for path in recipe.exclude_paths:
        start = path.partition("*")[0].partition("?")[0].rpartition("/")[0] or "/"
        lines.append(f"[ ! -d {start} ] || find {start} -xdev -path '{path}' -type f{kept} -delete")
    return "\n".join(lines)


def seal_script() -> str:
    """The script `seal`: the recipe's `finish`, then removal of everything that distinguishes this system from another.

    With the argument `poweroff` it switches the machine off. After it no one can log in.
    """
    return f"""#!/bin/sh
# The last thing that is done in this system; written by `hyperscaler image packer-files`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
"$here/finish" /
find /var/log -type f -exec truncate -s 0 {{}} +
find /var/lib/apt/lists -type f -delete
{_lines(f"rm -rf -- {path}" for path in _TRACES)}
[ -e /sbin/ifup ] || rm -rf /etc/network
: >/etc/machine-id
sync
[ "${{1-}}" != poweroff ] || systemctl poweroff
"""


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
