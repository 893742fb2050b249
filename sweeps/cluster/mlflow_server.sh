#!/usr/bin/env bash
# A tracking server for a lab: MLflow over PostgreSQL, with the artifacts beside the database.
#
#   pip install -e '.[postgres]'; apt-get install postgresql
#   HOST=tracking.lab sweeps/cluster/mlflow_server.sh /srv/cnd
#
# It makes what FOLDER lacks, starts both and stays; SIGTERM or Ctrl-C ends both in order, and the same line starts them
# again, also after the power was cut. Sweeps then take --tracking-uri http://HOST:PORT, and searches
# --storage postgresql+psycopg2://cnd@HOST:PGPORT/searches, with PGPASSFILE=FOLDER/pgpass as the password.
#
# HOST (127.0.0.1), PORT (5000), PGPORT (5433), WORKERS (4), PYTHON (.venv/bin/python) and PGBIN may be set. MLflow asks
# nobody who they are: give it a host name of the lab's own network, and no other.
set -euo pipefail

folder="${1:?name a folder: sweeps/cluster/mlflow_server.sh FOLDER}"
host="${HOST:-127.0.0.1}" port="${PORT:-5000}" pgport="${PGPORT:-5433}" python="${PYTHON:-.venv/bin/python}"
pgbin="${PGBIN:-$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)}"
if ! [ -x "$pgbin/postgres" ]; then
  echo "PostgreSQL was not found in $pgbin: apt-get install postgresql, or set PGBIN" >&2
  exit 2
fi
mkdir -p "$folder/artifacts"
folder="$(cd "$folder" && pwd)"
data="$folder/postgres"
export PGPASSFILE="$folder/pgpass" PGHOST="$host" PGPORT="$pgport" PGUSER=cnd

as() { # PostgreSQL refuses to run as root
  if [ "$(id -u)" = 0 ]; then
    runuser -u postgres -- "$@"
  else
    "$@"
  fi
}

if ! [ -f "$data/PG_VERSION" ]; then
  rm -rf "$data" # left half made
  (umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(16))' >"$folder/password")
  (umask 077 && printf '*:*:*:cnd:%s\n' "$(cat "$folder/password")" >"$PGPASSFILE")
  mkdir -m 700 "$data"
  if [ "$(id -u)" = 0 ]; then chown postgres "$data" "$folder/password"; fi
  as "$pgbin/initdb" --pgdata="$data" --username=cnd --encoding=UTF8 --auth=scram-sha-256 --pwfile="$folder/password" \
    >/dev/null
  rm "$folder/password"
  echo "host all cnd all scram-sha-256" | as tee -a "$data/pg_hba.conf" >/dev/null
fi
options="-p $pgport -c listen_addresses=$host -c unix_socket_directories=$data"
tries=15
until as "$pgbin/pg_ctl" start --wait --silent --pgdata="$data" --log="$data/log" --options="$options"; do
  tries=$((tries - 1)) # processes of one that was killed take seconds to go
  if [ "$tries" = 0 ]; then exit 1; fi
  sleep 2
done
server=
stop() {
  if [ -n "$server" ]; then kill -TERM "$server" 2>/dev/null && wait "$server" || true; fi
  as "$pgbin/pg_ctl" stop --silent --mode=fast --pgdata="$data"
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
for database in mlflow searches; do
  found="$("$pgbin/psql" --dbname=postgres --tuples-only --no-align \
    --command="select 1 from pg_database where datname = '$database'")"
  if [ "$found" != 1 ]; then "$pgbin/createdb" "$database"; fi
done

export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
"$python" -m mlflow server --backend-store-uri "postgresql+psycopg2://cnd@$host:$pgport/mlflow" \
  --artifacts-destination "$folder/artifacts" --host "$host" --port "$port" --allowed-hosts "$host,$host:$port" \
  --workers "${WORKERS:-4}" &
server=$!
wait "$server"
