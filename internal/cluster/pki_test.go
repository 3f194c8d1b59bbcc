package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCertificatesAreForWhoeverAsks(t *testing.T) {
	p, err := newPKI(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.ca)
	pair, err := tls.LoadX509KeyPair(p.path(serverCert), p.path(serverKey))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"127.0.0.1", nodeIP, apiServiceIP, "kubernetes.default.svc"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	client, err := tls.LoadX509KeyPair(p.path(kubeletClient), p.path(kubeletKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		t.Errorf("kubelet's client: %v", err)
	}
	if _, err := client.Leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
		t.Error("kubelet's client may be a server, too")
	}
}

func TestNobodyElseCanReadTheKeys(t *testing.T) {
	p, err := newPKI(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(p.path("*"))
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	tokens, err := os.ReadFile(p.path(tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	for identity := range identities {
		config, err := os.ReadFile(p.kubeconfig(identity))
		if err != nil || !strings.Contains(string(config), p.tokens[identity]) || !strings.Contains(string(tokens), p.tokens[identity]) {
			t.Errorf("%s cannot come in: %v", identity, err)
		}
	}
}
