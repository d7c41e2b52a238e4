package guard

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	"qwen3guard.internal/clients/go/guardpb"
)

const notUTF8 = "is not valid UTF-8."

// notText returns an *Error that names the field which is not valid UTF-8, or nil. A message with
// such a field can't be sent, and gRPC would report an internal error.
func notText(request *guardpb.ModerateRequest) error {
	for index, message := range request.GetConversation() {
		if !utf8.ValidString(message.GetContent()) {
			return invalid(fmt.Sprintf("conversation[%d].content", index), notUTF8)
		}
	}
	if !utf8.ValidString(request.GetRoutingKey()) {
		return invalid("routing_key", notUTF8)
	}
	if !utf8.ValidString(request.GetSlot()) {
		return invalid("slot", notUTF8)
	}
	return nil
}

// invalid returns the error for a request that the client itself refuses.
func invalid(field, description string) *Error {
	wrong := Violation{Field: field, Description: description}
	return &Error{
		Code:       codes.InvalidArgument,
		Reason:     "REQUEST_INVALID",
		Message:    wrong.Field + " " + wrong.Description,
		Violations: []Violation{wrong},
	}
}

// checked returns what to send for one request of several, which fails alone: if it can't be sent,
// an empty request, which the server refuses, so that the others keep their order.
func checked(request *guardpb.ModerateRequest) (*guardpb.ModerateRequest, error) {
	if refused := notText(request); refused != nil {
		return &guardpb.ModerateRequest{}, refused
	}
	return request, nil
}
