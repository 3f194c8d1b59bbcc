#!/bin/sh
# Makes the database when there is none, and becomes the server. Arguments are the server's.
set -eu
if [ ! -d "$PGDATA" ]; then
	# Whole or not at all: a killed initdb leaves something that looks like a database.
	rm -rf "$PGDATA.new"
	initdb --pgdata="$PGDATA.new" --username=postgres --encoding=UTF8 --locale=C.UTF-8 --data-checksums \
		--auth-local=trust --auth-host=scram-sha-256 ${POSTGRES_PASSWORD_FILE:+--pwfile="$POSTGRES_PASSWORD_FILE"}
	echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
	mv "$PGDATA.new" "$PGDATA"
fi
# fsGroup lets the group into every folder, at each start of a pod; the server refuses a database that others can reach.
chmod 0700 "$PGDATA"
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
