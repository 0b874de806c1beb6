// Command probe is the only program of the test node's own image: the pause of every pod's sandbox,
// and what tests of the node run in a pod. What it finds goes to the termination message.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

func main() {
	words := append(os.Args[1:], "")
	switch words[0] {
	case "pause":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("waiting")
		<-stop
	case "serve":
		name, _ := os.Hostname()
		answer := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from ", name) }
		report("", http.ListenAndServe(words[1], http.HandlerFunc(answer)))
	case "print":
		// Runs in a pod of another command by `kubectl exec`, so it leaves that one's message alone.
		fmt.Println(words[1])
	case "say":
		fmt.Println(words[1])
		report(os.ExpandEnv(words[1]), nil)
	case "get":
		report(get(words[1]))
	case "resolve":
		report(resolve(words[1]))
	default:
		fmt.Fprintln(os.Stderr, "usage: probe pause | serve ADDRESS | print TEXT | say TEXT | get URL | resolve NAME")
		os.Exit(64)
	}
}

// get fetches a URL; https is the cluster's API server, with the pod's service account.
func get(url string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second}
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(url, "https:") {
		token, err := os.ReadFile(account + "token")
		if err != nil {
			return "", err
		}
		authorities, err := os.ReadFile(account + "ca.crt")
		if err != nil {
			return "", err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authorities)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	answer, err := client.Do(request)
	// The rules of a Service appear a moment after its pods are ready.
	for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		answer, err = client.Do(request)
	}
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 2048))
	return fmt.Sprintf("%d %s", answer.StatusCode, body), err
}

// resolve asks until the name is known: a Service's pods appear in DNS a moment after they start.
func resolve(name string) (string, error) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		addresses, err := net.LookupHost(name)
		if err == nil || time.Now().After(deadline) {
			sort.Strings(addresses)
			return strings.Join(addresses, " "), err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func report(text string, err error) {
	if err != nil {
		text = err.Error()
	}
	if written := os.WriteFile("/dev/termination-log", []byte(text), 0o644); written != nil {
		fmt.Fprintln(os.Stderr, written)
		os.Exit(75)
	}
	if err != nil {
		os.Exit(1)
	}
}
