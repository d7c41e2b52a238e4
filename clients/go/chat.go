package guard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"qwen3guard.internal/clients/go/guardpb"
)

var roles = map[string]guardpb.Role{
	"system":    guardpb.Role_ROLE_SYSTEM,
	"user":      guardpb.Role_ROLE_USER,
	"assistant": guardpb.Role_ROLE_ASSISTANT,
}

// Message returns a message of a plain role: "system", "user" or "assistant". The server refuses
// a message of any other role, and names its field.
func Message(role, content string) *guardpb.Message {
	return &guardpb.Message{Role: roles[role], Content: content}
}

// Chat returns a request to judge the last of a chat program's messages, which are in JSON:
// [{"role": "user", "content": "How do I boil an egg?"}]. The error is an *Error with the field of
// what can't be judged, such as content in parts or a tool call. A key whose value is null is none.
func Chat(messages []byte) (*guardpb.ModerateRequest, error) {
	var items []json.RawMessage
	if !utf8.Valid(messages) || json.Unmarshal(messages, &items) != nil {
		return nil, invalid("conversation", "is no JSON list of messages.")
	}
	request := new(guardpb.ModerateRequest)
	for index, item := range items {
		message, key, wrong := chatMessage(item)
		if wrong != "" {
			return nil, invalid(fmt.Sprintf("conversation[%d]%s", index, key), wrong)
		}
		request.Conversation = append(request.Conversation, message)
	}
	return request, nil
}

// chatMessage reads one message, which is valid JSON. It returns the key at fault and why, if any.
func chatMessage(raw json.RawMessage) (message *guardpb.Message, key, wrong string) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if open, _ := decoder.Token(); open != json.Delim('{') {
		return nil, "", "is no object with role and content."
	}
	found := map[string]string{}
	for decoder.More() {
		name, _ := decoder.Token()
		key := name.(string)
		var value any
		_ = decoder.Decode(&value)
		text, isText := value.(string)
		_, again := found[key]
		switch {
		case key == "content" && !isText:
			return nil, ".content", "is no text: parts can't be judged."
		case key != "role" && key != "content" && value != nil:
			return nil, "." + key, "can't be judged: a message has role and content."
		case again:
			return nil, "." + key, "is there twice."
		}
		found[key] = text
	}
	role, known := roles[found["role"]]
	if !known {
		return nil, ".role", "is none of system, user, assistant."
	}
	content, given := found["content"]
	if !given {
		return nil, ".content", "is missing."
	}
	if halved(content, raw) {
		return nil, ".content", "holds half a surrogate pair, which is no text."
	}
	return &guardpb.Message{Role: role, Content: content}, "", ""
}

// halved reports whether the decoder put a replacement character where the JSON has none.
func halved(content string, raw []byte) bool {
	return strings.ContainsRune(content, utf8.RuneError) &&
		!bytes.ContainsRune(raw, utf8.RuneError) &&
		!bytes.Contains(bytes.ToLower(raw), []byte(`\ufffd`))
}
