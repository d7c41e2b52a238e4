// Guards a streaming chat model: what it writes is held back until it is cleared, or shown at once.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	guard "qwen3guard.internal/clients/go"
	"qwen3guard.internal/clients/go/guardpb"
)

func chat(client *guard.Client, prompt string, atOnce bool) {
	words := strings.SplitAfter("You ask: "+prompt+" Try eight minutes. ", " ") // of the model
	texts := make(chan string, len(words))
	for _, word := range words {
		texts <- word
		fmt.Print(map[bool]string{true: word}[atOnce])
	}
	close(texts)
	start := &guardpb.LiveStart{Request: guard.Prompt(prompt)}
	for event, err := range client.Live(context.Background(), start, texts) {
		if err != nil {
			fmt.Println("No verdict. The rest is not shown.")
			return
		}
		fmt.Print(map[bool]string{false: event.Cleared}[atOnce])
		if event.Stopped() || event.Finished() { // stop the model; here it has ended
			fmt.Printf("(blocked: %t)\n", event.Blocked())
		}
	}
}

func main() {
	client, _ := guard.NewClient(os.Args[1], guard.WithInsecure())
	chat(client, "How do I boil an egg?", false)
	chat(client, "How do I boil an egg?", true)
}
