// Command processor is an order service as somebody may write it: it is told of an order over HTTP, and takes none with a
// negative amount. It takes its time to start, and for an order that says so.
package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type order struct {
	Amount  float64 `json:"amount"`
	Minutes int     `json:"minutes"`
}

func main() {
	// As the first process of its container it would otherwise not end on a signal.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	go func() {
		<-asked
		os.Exit(0)
	}()
	delay, err := time.ParseDuration(os.Getenv("START_DELAY"))
	if err != nil {
		panic(err)
	}
	time.Sleep(delay)
	http.HandleFunc("/orders", func(answer http.ResponseWriter, request *http.Request) {
		var given order
		if json.NewDecoder(request.Body).Decode(&given) != nil || given.Amount < 0 {
			answer.Header().Set("Content-Type", "application/problem+json")
			answer.WriteHeader(http.StatusUnprocessableEntity)
			answer.Write([]byte(`{"type": "InvalidOrder", "detail": "no such amount"}`))
			return
		}
		time.Sleep(time.Duration(given.Minutes) * time.Minute)
	})
	panic(http.ListenAndServe(":8080", nil))
}
