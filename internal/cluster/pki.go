package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Files of the pki.
const (
	caCert        = "ca.crt"
	serverCert    = "apiserver.crt"
	serverKey     = "apiserver.key"
	kubeletClient = "kubelet-client.crt"
	kubeletKey    = "kubelet-client.key"
	accountKey    = "service-account.key"
	accountPublic = "service-account.pub"
	tokenFile     = "tokens.csv"
)

// identities are who may speak to the API: file name of the kubeconfig to user and groups.
var identities = map[string][2]string{
	"admin":              {"admin", "system:masters"},
	"controller-manager": {"system:kube-controller-manager", ""},
	"scheduler":          {"system:kube-scheduler", ""},
	"proxy":              {"system:kube-proxy", ""},
	kubeletIdentity(0):   {"system:node:" + nodeNameOf(0), "system:nodes"},
	kubeletIdentity(1):   {"system:node:" + nodeNameOf(1), "system:nodes"},
}

func kubeletIdentity(index int) string { return "kubelet-" + nodeNameOf(index) }

// pki is one authority, the certificates it has signed, the key of service accounts, and a token for each identity.
type pki struct {
	dir    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	tokens map[string]string
}

// newPKI makes everything anew below dir. It lives as long as the cluster.
func newPKI(dir string) (*pki, error) {
	p := &pki{dir: dir, tokens: map[string]string{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, step := range []func() error{p.makeCA, p.makeServer, p.makeKubeletClient, p.makeAccountKey, p.makeTokens} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("make the cluster's certificates: %w", err)
		}
	}
	return p, nil
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// kubeconfig is the path of an identity's.
func (p *pki) kubeconfig(identity string) string { return p.path(identity + ".kubeconfig") }

const validity = 365 * 24 * time.Hour

func unsigned(name pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	return &x509.Certificate{
		SerialNumber: serial, Subject: name,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
}

func (p *pki) makeCA() (err error) {
	ca := unsigned(pkix.Name{CommonName: "katadirect-cluster"})
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &p.key.PublicKey, p.key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	return p.write(caCert, "CERTIFICATE", der)
}

func (p *pki) makeServer() error {
	c := unsigned(pkix.Name{CommonName: "kube-apiserver"})
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	c.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"}
	c.IPAddresses = []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(nodeIP), net.ParseIP(apiServiceIP)}
	return p.sign(c, serverCert, serverKey)
}

// makeKubeletClient makes what the API server shows to kubelet, for logs and exec.
func (p *pki) makeKubeletClient() error {
	c := unsigned(pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}})
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return p.sign(c, kubeletClient, kubeletKey)
}

func (p *pki) sign(c *x509.Certificate, certName, keyName string) error {
	key, err := p.newKey(keyName)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, c, p.ca, &key.PublicKey, p.key)
	if err != nil {
		return err
	}
	return p.write(certName, "CERTIFICATE", der)
}

func (p *pki) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, p.write(name, "EC PRIVATE KEY", der)
}

func (p *pki) makeAccountKey() error {
	key, err := p.newKey(accountKey)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	return p.write(accountPublic, "PUBLIC KEY", der)
}

func (p *pki) write(name, kind string, der []byte) error {
	return os.WriteFile(p.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// makeTokens writes the file that the API server knows identities from, and a kubeconfig for each.
func (p *pki) makeTokens() error {
	var lines strings.Builder
	for identity, user := range identities {
		p.tokens[identity] = rand.Text()
		fmt.Fprintf(&lines, "%s,%s,%s,%q\n", p.tokens[identity], user[0], identity, user[1])
		if err := p.writeKubeconfig(p.kubeconfig(identity), apiInside, identity); err != nil {
			return err
		}
	}
	return os.WriteFile(p.path(tokenFile), []byte(lines.String()), 0o600)
}

// writeKubeconfig writes a kubeconfig that needs no other file.
func (p *pki) writeKubeconfig(path, address, identity string) error {
	ca, err := os.ReadFile(p.path(caCert))
	if err != nil {
		return err
	}
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: katadirect
  cluster: {server: "https://%s", certificate-authority-data: %s}
users:
- name: %s
  user: {token: %s}
contexts:
- name: katadirect
  context: {cluster: katadirect, user: %s}
current-context: katadirect
`, address, base64.StdEncoding.EncodeToString(ca), identity, p.tokens[identity], identity), 0o600)
}
