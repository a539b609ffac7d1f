package order

import (
	"encoding/json"

	"github.com/invopop/jsonschema"
)

// SchemaID is the name of the published schema.
const SchemaID = "https://github.com/certmill/certmill/order.schema.json"

// Schema is the published JSON Schema (draft 2020-12) of the order message. It
// says what can be said in a schema; what needs the public suffix list or a
// look into a CSR only Validate can tell. It describes the normal form: white
// space around values, for one, is taken by ParseRequest all the same.
func Schema() []byte {
	r := jsonschema.Reflector{DoNotReference: true, Anonymous: true, RequiredFromJSONSchemaTags: true}
	s := r.Reflect(Request{})
	s.ID = SchemaID
	s.Title = "certmill order"
	s.Description = "Publish one to orders.new or orders.new.<publisher>."
	describeFields(s.Properties.Get)
	s.Not = &jsonschema.Schema{Required: []string{"key", "csr"}}
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil // a schema of strings, lists and numbers can be marshalled
	}
	return append(body, '\n')
}

// nameForm is what a domain name looks like; wrongName says the rest.
const nameForm = `^(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}$`

// describeFields adds what the struct tags do not hold: regular expressions,
// whose commas would end a tag's value, and rules over several values.
func describeFields(get func(string) (*jsonschema.Schema, bool)) {
	for name, form := range map[string]string{
		"id": idForm.String(), "again": idForm.String(), "account": accountForm.String(), "product": productForm.String(), "batch": batchForm.String(),
		"resource": resourceForm.String(),
	} {
		if field, ok := get(name); ok {
			field.Pattern = form
		}
	}
	for name, not := range map[string]string{"id": "^" + BadPrefix, "again": "^(" + BadPrefix + ".*|" + AgainLast + "$)"} {
		if field, ok := get(name); ok {
			field.Not = &jsonschema.Schema{Pattern: not}
		}
	}
	if names, ok := get("names"); ok {
		wildcard := &jsonschema.Schema{Pattern: `^\*\.`}
		names.AnyOf = []*jsonschema.Schema{{Items: wildcard}, {Items: &jsonschema.Schema{Not: wildcard}}}
		names.Items.Pattern = nameForm
	}
	if labels, ok := get("labels"); ok {
		most := uint64(maxLabels)
		labels.MaxProperties = &most
		labels.PropertyNames = &jsonschema.Schema{Pattern: labelForm.String()}
	}
}
