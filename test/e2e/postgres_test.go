package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// example is one of deploy/examples.
func (k *kube) example(name string) string {
	k.t.Helper()
	text, err := os.ReadFile("../../deploy/examples/" + name)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(text)
}

// balances are the sums that pgbench keeps equal in each transaction; reading all rows also checks all their checksums.
const balances = `psql -U postgres -At -c "select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)
 and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)
 and (select sum(bbalance) from pgbench_branches) = (select coalesce(sum(delta), 0) from pgbench_history), (select count(*) from pgbench_history)"`

func databaseUnderLoad(t *testing.T, k *kube) {
	status := func(name string) {
		t.Helper()
		k.kubectl("rollout", "status", "statefulset/"+name, "--timeout="+(4*patience).String()) // initdb, by emulation
	}
	sql := func(pod, command string) string { t.Helper(); return k.exec(pod, command) }
	// committed is how many transactions of pgbench an instance has, whose sums must be right.
	committed := func(pod string) (transactions int) {
		t.Helper()
		right, count, _ := strings.Cut(sql(pod, balances), "|")
		transactions, err := strconv.Atoi(count)
		if right != "t" || err != nil {
			t.Errorf("the sums of %s are right: %s, of %s transactions", pod, right, count)
		}
		return transactions
	}

	k.step("PostgreSQL makes its database on a volume, and pgbench its tables")
	k.kubectl("create", "secret", "generic", "postgresql", "--from-literal=password=open")
	k.apply(k.example("postgresql.yaml"))
	status("postgresql")
	const pod, data = "postgresql-0", "data-postgresql-0"
	k.direct(pod)
	sql(pod, "pgbench -U postgres -q -i -s 1 postgres 2>&1")

	k.step("pgbench works while the volume grows three times")
	bench := k.start("exec", pod, "--", "sh", "-c",
		"while [ ! -e /tmp/enough ]; do pgbench -U postgres -n -c 2 -t 20 postgres || exit 1; done; echo no errors")
	goesOn := func() { // it has committed more than it has now
		t.Helper()
		before := committed(pod)
		k.until(fmt.Sprintf("more than %d transactions", before), func() (string, bool) {
			said := k.says(pod, `psql -U postgres -At -c "select count(*) from pgbench_history"`)
			now, err := strconv.Atoi(said)
			return said, err == nil && now > before
		})
	}
	goesOn()
	for _, grown := range []struct {
		size string
		kib  int
	}{{"2304Mi", 2_150_000}, {"2560Mi", 2_400_000}, {"3Gi", 2_900_000}} {
		k.growsOnline(pod, data, grown.size, grown.kib)
		goesOn()
	}

	k.step("a snapshot while it works")
	before := committed(pod)
	k.apply(snapshotOf("moment", data))
	k.untilField("volumesnapshot/moment", "{.status.readyToUse}", "true")
	sql(pod, ": > /tmp/enough")
	bench.until("no errors")
	after := committed(pod)

	k.step("a second instance from the snapshot comes up clean")
	second := strings.NewReplacer("postgresql:dev", "postgresql:dev", "/postgresql", "/postgresql", "postgresql", "restored")
	k.kubectl("create", "secret", "generic", "restored", "--from-literal=password=open")
	k.apply(claimFrom("data-restored-0", "3Gi", fromSnapshot+"moment") + second.Replace(k.example("postgresql.yaml")))
	status("restored")
	if has := committed("restored-0"); has < before || has > after {
		t.Errorf("the second instance has %d transactions; there were %d before the snapshot, and %d at the end", has, before, after)
	}
	log := k.kubectl("logs", "restored-0")
	for _, bad := range []string{"PANIC", "FATAL:  could not", "invalid page", "checksum"} {
		if strings.Contains(log, bad) {
			t.Errorf("the second instance's log has %q:\n%s", bad, log)
		}
	}
	sql("restored-0", "pgbench -U postgres -n -c 1 -t 10 postgres 2>&1")
}
