#!/usr/bin/env bash
# Makes the parts of which guests are put together, once: a Debian kernel with its modules, busybox, and a program with
# known processes and secrets. Nothing is downloaded again when they are there.
#
#   tests/guest/kit.sh FOLDER      makes FOLDER/{vmlinuz,modules,release,busybox,suspect,avml}
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kit=$1
mkdir -p "$kit"
cd "$kit"
package=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
if [ ! -s vmlinuz ] || [ "$(cat package 2> /dev/null)" != "$package" ]; then
  rm -rf root download modules vmlinuz
  mkdir download
  # apt's own user may not write here; root may.
  (cd download && apt-get -o APT::Sandbox::User=root download -qq "$package")
  dpkg -x download/*.deb root
  release=$(ls root/lib/modules)
  depmod -b root "$release"
  mv root/lib/modules modules
  cp "root/boot/config-$release" config
  echo "$release" > release
  cp "root/boot/vmlinuz-$release" vmlinuz.new
  rm -rf root download
  echo "$package" > package
  mv vmlinuz.new vmlinuz
fi
cp -u /bin/busybox busybox
if [ ! -x suspect ] || [ "$here/suspect.c" -nt suspect ]; then
  gcc -O1 -static -pthread -o suspect.new "$here/suspect.c"
  mv suspect.new suspect
fi
# The tool with which memory images are compared.
[ -x avml/bin/avml ] || cargo install --quiet --locked --version 0.21.0 --no-default-features --root avml avml
